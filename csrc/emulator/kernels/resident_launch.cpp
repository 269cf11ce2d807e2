// The resident kernels, on the runtime of runtime/.
#include "cuda/common/kernels.h"
#include "cuda/step/resident.cuh"
#include "emulator/runtime/runtime.h"

#ifndef EFT_FEW_KERNELS
#include "cuda/step/resident.cu"
#else  // as in stream_launch.cpp
const void* eft::resident_entry(int fast) {
  return fast == 3 ? reinterpret_cast<const void*>(resident_kernel<3>)
                   : reinterpret_cast<const void*>(resident_kernel<0>);
}
#endif

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
