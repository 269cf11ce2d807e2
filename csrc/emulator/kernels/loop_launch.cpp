// The tail's and the loop's launch code and kernels as they are, on the runtime of runtime/.
#include "cuda/loop/while_loop.cu"
#include "emulator/runtime/runtime.h"

namespace eft {
namespace {

const bool known = cuda_host::know(tail_kernel, kThreads) & cuda_host::know(again_kernel, kThreads);

}  // namespace
}  // namespace eft
