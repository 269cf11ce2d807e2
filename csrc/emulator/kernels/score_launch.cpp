// Scoring's launch code and kernels as they are, on the runtime of runtime/.
#include "cuda/score/score.cu"
#include "emulator/runtime/runtime.h"

namespace eft {
namespace {

const bool known =
    cuda_host::know(score_kernel, kScoreThreads) & cuda_host::know(compare_kernel, kScoreThreads);

}  // namespace
}  // namespace eft
