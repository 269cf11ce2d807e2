// Reads a row's bitmask: bit i % 32 of word i / 32 is set where token i may be drawn.
#ifndef EFT_CUDA_COMMON_BITMASK_CUH_
#define EFT_CUDA_COMMON_BITMASK_CUH_

#include "cuda/common/row_inputs.cuh"

namespace eft {
namespace {

// Bit i is set where token `id` + i may be drawn, for the 8 tokens of a piece inside the
// vocabulary.
__device__ __forceinline__ uint32_t load_bitmask(const RowInputs& inputs, int id) {
  return uint32_t(__ldg(inputs.token_bitmask + id / 32)) >> id % 32;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_BITMASK_CUH_
