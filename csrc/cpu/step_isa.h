// The per-row entry points, compiled once per instruction set from step_isa.cpp.
#ifndef EFT_CPU_STEP_ISA_H_
#define EFT_CPU_STEP_ISA_H_

#include "cpu/scratch.h"
#include "eft.h"

namespace eft {

struct StepIsa {
  void (*step_row)(const eft_step& step, int64_t row, Scratch& scratch);
  void (*combine_row)(const eft_step& step, int64_t row, Scratch& scratch, float* z);
};

extern const StepIsa kPortable, kAvx2, kAvx512;

}  // namespace eft
#endif  // EFT_CPU_STEP_ISA_H_
