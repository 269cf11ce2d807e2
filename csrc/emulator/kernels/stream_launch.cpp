// Registers the streaming kernels with the fake runtime.
#include "cuda/step/stream.cu"
#include "cuda/step/top_ids.cu"
#include "emulator/runtime/runtime.h"

namespace eft {
namespace {

const bool registered = [] {
  bool all = simt::register_kernel(simt::kernel_at<Plan>(stream_entry(0, true)), kStreamThreads);
  all &= simt::register_kernel(top_ids_kernel, kStreamThreads);
  for (int k = 0; k <= EFT_MAX_MODELS; ++k) {
    all &= simt::register_kernel(simt::kernel_at<Plan>(stream_entry(k, false)), kStreamThreads);
  }
  return all;
}();

}  // namespace
}  // namespace eft
