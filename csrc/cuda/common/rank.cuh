// The rank of a row's tokens: t descending, then id ascending, as one 64-bit key.
#ifndef EFT_CUDA_COMMON_RANK_CUH_
#define EFT_CUDA_COMMON_RANK_CUH_

#include "cuda/common/reduce.cuh"

namespace eft {
namespace {

constexpr uint32_t kLastId = 0xffffffffu;
constexpr float kLowestT = -0x1.fffffep127f;

// A token is kept iff t > cutoff.t, or t == cutoff.t and its id <= cutoff.id; -inf is never kept.
struct Cutoff {
  float t;
  uint32_t id;
};

__device__ __forceinline__ bool keeps(const Cutoff& cutoff, float t, uint32_t id) {
  return t > cutoff.t || (t == cutoff.t && id <= cutoff.id);
}

__device__ __forceinline__ Cutoff stricter(const Cutoff& a, const Cutoff& b) {
  if (a.t != b.t) return a.t > b.t ? a : b;
  return a.id < b.id ? a : b;
}

// Ascending keys are descending t (finite), then ascending id.
__device__ __forceinline__ uint64_t rank_key(float t, uint32_t id) {
  return uint64_t(~ordered(t + 0.0f)) << 32 | id;  // -0 ranks as +0
}
__device__ __forceinline__ float key_t(uint64_t key) { return from_ordered(~uint32_t(key >> 32)); }
__device__ __forceinline__ uint32_t key_id(uint64_t key) { return uint32_t(key); }

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_RANK_CUH_
