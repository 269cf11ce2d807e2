#include "cuda/common/kernels.h"
#include "cuda/step/resident.cuh"

namespace eft {

const void* resident_entry(int fast) {
  switch (fast) {
    case 1: return reinterpret_cast<const void*>(resident_kernel<1>);
    case 2: return reinterpret_cast<const void*>(resident_kernel<2>);
    case 3: return reinterpret_cast<const void*>(resident_kernel<3>);
    case 4: return reinterpret_cast<const void*>(resident_kernel<4>);
    default: return reinterpret_cast<const void*>(resident_kernel<0>);
  }
}

}  // namespace eft
