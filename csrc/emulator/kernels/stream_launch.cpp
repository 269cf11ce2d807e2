// The streaming kernels, on the runtime of runtime/.
#include "cuda/common/kernels.h"
#include "cuda/step/stream.cuh"
#include "emulator/runtime/runtime.h"

#ifndef EFT_FEW_KERNELS
#include "cuda/step/stream.cu"
#else  // those for three bf16 models and for any
const void* eft::stream_entry(int fast, bool conservative) {
  if (conservative) return reinterpret_cast<const void*>(stream_kernel<0, true>);
  return fast == 3 ? reinterpret_cast<const void*>(stream_kernel<3, false>)
                   : reinterpret_cast<const void*>(stream_kernel<0, false>);
}
#endif

namespace eft {
namespace {

const bool registered = [] {
  bool all = simt::register_kernel(simt::kernel_at<Plan>(stream_entry(0, true)), kStreamThreads);
  for (int k = 0; k <= EFT_MAX_MODELS; ++k) {
    all &= simt::register_kernel(simt::kernel_at<Plan>(stream_entry(k, false)), kStreamThreads);
  }
  return all;
}();

}  // namespace
}  // namespace eft
