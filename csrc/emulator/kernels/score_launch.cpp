// Scoring's launch code, unchanged; its kernels are registered with the fake runtime.
#include "cuda/score/score.cu"
#include "emulator/runtime/runtime.h"

namespace eft {
namespace {

const bool registered = simt::register_kernel(score_kernel, kScoreThreads) &
                        simt::register_kernel(compare_kernel, kScoreThreads);

}  // namespace
}  // namespace eft
