// The verification's launch code, unchanged; its kernels are registered with the fake runtime.
#include "cuda/verify/verify.cu"
#include "emulator/runtime/runtime.h"

namespace eft {
namespace {

const bool registered = simt::register_kernel(verify_stream_kernel<true>, kStreamThreads) &
                        simt::register_kernel(verify_stream_kernel<false>, kStreamThreads) &
                        simt::register_kernel(verify_decide_kernel, kStreamThreads);

}  // namespace
}  // namespace eft
