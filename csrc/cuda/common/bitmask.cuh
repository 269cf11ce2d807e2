// Where a bitmask is read: bit i % 32 of word i / 32 says whether token i may be drawn.
#ifndef EFT_CUDA_COMMON_BITMASK_CUH_
#define EFT_CUDA_COMMON_BITMASK_CUH_

#include "cuda/common/mixer.cuh"

namespace eft {
namespace {

// Bit i is set where the row's bitmask excludes token `id` + i, for the 8 tokens of a piece.
__device__ __forceinline__ uint32_t excluded_by_bitmask(const Mixer& m, int id) {
  if (id >= m.vocab_size) return 0;
  const uint32_t word = uint32_t(__ldg(m.token_bitmask + id / 32));
  return ~(word >> id % 32) & 0xffu;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_BITMASK_CUH_
