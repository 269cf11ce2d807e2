// The per-row entry points, compiled once per instruction set from step_isa.cpp.
#ifndef EFT_CPU_STEP_ISA_H_
#define EFT_CPU_STEP_ISA_H_

#include "cpu/scratch.h"
#include "eft.h"

namespace eft {

struct StepIsa {
  void (*step_row)(const eft_step& step, int64_t row, Scratch& scratch);
  void (*combine_row)(const eft_step& step, int64_t row, Scratch& scratch, float* z);
  void (*verify_row)(const eft_verify& verify, int64_t row, Scratch& scratch);
};

extern const StepIsa kPortable, kAvx2, kAvx512;

// The copy for EFT_ISA_*; null, with a message, where this processor lacks it.
const StepIsa* kernels(int isa);

// Below this many logits a row's work is over before another thread has woken up (about 10 us).
constexpr int64_t kMinLogitsToShare = 1 << 16;

}  // namespace eft
#endif  // EFT_CPU_STEP_ISA_H_
