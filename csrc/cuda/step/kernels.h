// The step's compiled kernels, and their launches.
#ifndef EFT_CUDA_STEP_KERNELS_H_
#define EFT_CUDA_STEP_KERNELS_H_

#include <cuda_runtime.h>

#include "cuda/step/choose.h"

namespace eft {

// Entry points as cudaLaunchKernelExC takes them. `num_bf16_models`: 0 for any dtypes.
const void* stream_entry(int num_bf16_models, bool conservative);
const void* resident_entry(int num_bf16_models);
const void* top_ids_entry();

// `plan` is the address of a Plan, a type without linkage. `rows` are those of the grid: three for
// each row of a kModelNuclei launch.
cudaError_t launch_stream(const void* plan, const LaunchChoice& choice, int64_t rows,
                          cudaStream_t stream);
cudaError_t launch_resident(const void* plan, const LaunchChoice& choice, int64_t rows,
                            cudaStream_t stream);
// Behind launch_stream of the same plan, where num_top is not 0.
cudaError_t launch_top_ids(const void* plan, int64_t rows, cudaStream_t stream);

}  // namespace eft
#endif  // EFT_CUDA_STEP_KERNELS_H_
