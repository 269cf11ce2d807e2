// The streaming kernels that are compiled, and their launch.
#include "cuda/common/launch.h"
#include "cuda/step/kernels.h"
#include "cuda/step/stream.cuh"

namespace eft {

const void* stream_entry(int num_bf16_models, bool conservative) {
  if (conservative) return reinterpret_cast<const void*>(stream_kernel<0, true>);
  switch (num_bf16_models) {
#ifndef EFT_TEST_KERNELS_ONLY  // the sanitized tests have those for three bf16 models and for any
    case 1: return reinterpret_cast<const void*>(stream_kernel<1, false>);
    case 2: return reinterpret_cast<const void*>(stream_kernel<2, false>);
    case 4: return reinterpret_cast<const void*>(stream_kernel<4, false>);
#endif
    case 3: return reinterpret_cast<const void*>(stream_kernel<3, false>);
    default: return reinterpret_cast<const void*>(stream_kernel<0, false>);
  }
}

cudaError_t launch_stream(const void* plan, const LaunchChoice& choice, int64_t rows,
                          cudaStream_t stream) {
  return launch(stream_entry(choice.num_bf16_models, choice.conservative), plan, choice.blocks,
                rows, kStreamThreads, choice.shared_bytes, stream);
}

}  // namespace eft
