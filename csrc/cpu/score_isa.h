// The per-row entry point of scoring, compiled once per instruction set from score_isa.cpp.
#ifndef EFT_CPU_SCORE_ISA_H_
#define EFT_CPU_SCORE_ISA_H_

#include "cpu/scratch.h"
#include "eft.h"

namespace eft {
namespace scoring {

using ScoreRow = void (*)(const eft_score& score, int64_t row, Scratch& scratch);

extern const ScoreRow kPortable, kAvx2, kAvx512;

}  // namespace scoring
}  // namespace eft
#endif  // EFT_CPU_SCORE_ISA_H_
