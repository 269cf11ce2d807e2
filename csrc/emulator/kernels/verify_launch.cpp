// The verification's launch code and kernels as they are, on the runtime of runtime/.
#include "cuda/verify/verify.cu"
#include "emulator/runtime/runtime.h"

namespace eft {
namespace {

const bool known = cuda_host::know(verify_stream_kernel<true>, kStreamThreads) &
                   cuda_host::know(verify_stream_kernel<false>, kStreamThreads) &
                   cuda_host::know(verify_decide_kernel, kStreamThreads);

}  // namespace
}  // namespace eft
