// The kernel of the first ids, and its launch.
#include "cuda/common/launch.h"
#include "cuda/step/kernels.h"
#include "cuda/step/top_ids.cuh"

namespace eft {

const void* top_ids_entry() { return reinterpret_cast<const void*>(top_ids_kernel); }

cudaError_t launch_top_ids(const void* plan, int64_t rows, cudaStream_t stream) {
  return launch(top_ids_entry(), plan, int(rows), 1, kStreamThreads, sizeof(RowWork), stream);
}

}  // namespace eft
