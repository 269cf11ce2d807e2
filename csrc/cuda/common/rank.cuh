// The rank of a row's tokens: t descending, then id ascending, as one 64-bit key.
#ifndef EFT_CUDA_COMMON_RANK_CUH_
#define EFT_CUDA_COMMON_RANK_CUH_

#include "cuda/common/reduce.cuh"

namespace eft {
namespace {

constexpr uint32_t kLastId = 0xffffffffu;
constexpr float kLowestT = -0x1.fffffep127f;

// A token is kept iff t > limit.t, or t == limit.t and its id <= limit.id; -inf is never kept.
struct Limit {
  float t;
  uint32_t id;
};

__device__ __forceinline__ bool keeps(const Limit& limit, float t, uint32_t id) {
  return t > limit.t || (t == limit.t && id <= limit.id);
}

__device__ __forceinline__ Limit stricter(const Limit& a, const Limit& b) {
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
