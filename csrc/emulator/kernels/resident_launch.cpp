// Registers the resident kernels with the fake runtime.
#include "cuda/step/resident.cu"
#include "emulator/runtime/runtime.h"

namespace eft {
namespace {

const bool registered = [] {
  bool all = true;
  for (int k = 0; k <= EFT_MAX_MODELS; ++k) {
    all &= simt::register_kernel(simt::kernel_at<Plan>(resident_entry(k)), kResidentThreads);
  }
  return all;
}();

}  // namespace
}  // namespace eft
