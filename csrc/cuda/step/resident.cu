// The resident kernels that are compiled, and their launch.
#include "cuda/step/kernels.h"
#include "cuda/step/resident.cuh"

namespace eft {

const void* resident_entry(int num_bf16_models) {
  switch (num_bf16_models) {
#ifndef EFT_TEST_KERNELS_ONLY  // as in stream.cu
    case 1: return reinterpret_cast<const void*>(resident_kernel<1>);
    case 2: return reinterpret_cast<const void*>(resident_kernel<2>);
    case 4: return reinterpret_cast<const void*>(resident_kernel<4>);
#endif
    case 3: return reinterpret_cast<const void*>(resident_kernel<3>);
    default: return reinterpret_cast<const void*>(resident_kernel<0>);
  }
}

cudaError_t launch_resident(const void* plan, const LaunchChoice& choice, int64_t rows,
                            cudaStream_t stream) {
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = unsigned(choice.cluster);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(rows * choice.cluster));
  config.blockDim = dim3(kResidentThreads);
  config.dynamicSmemBytes = size_t(choice.shared_bytes);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  void* arguments[] = {const_cast<void*>(plan)};
  return cudaLaunchKernelExC(&config, resident_entry(choice.num_bf16_models), arguments);
}

}  // namespace eft
