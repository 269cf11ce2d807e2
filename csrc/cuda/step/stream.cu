#include "cuda/common/kernels.h"
#include "cuda/step/stream.cuh"

namespace eft {

const void* stream_entry(int fast, bool conservative) {
  if (conservative) return reinterpret_cast<const void*>(stream_kernel<0, true>);
  switch (fast) {
    case 1: return reinterpret_cast<const void*>(stream_kernel<1, false>);
    case 2: return reinterpret_cast<const void*>(stream_kernel<2, false>);
    case 3: return reinterpret_cast<const void*>(stream_kernel<3, false>);
    case 4: return reinterpret_cast<const void*>(stream_kernel<4, false>);
    default: return reinterpret_cast<const void*>(stream_kernel<0, false>);
  }
}

}  // namespace eft
