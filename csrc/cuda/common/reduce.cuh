// Maxima, sums and scans over a warp or a block, and 64-bit sums in shared memory.
#ifndef EFT_CUDA_COMMON_REDUCE_CUH_
#define EFT_CUDA_COMMON_REDUCE_CUH_

#include "cuda/common/device.cuh"

namespace eft {
namespace {

template <class T>
__device__ __forceinline__ T smaller(T a, T b) {
  return a < b ? a : b;
}

// Larger keys are larger values; NaN is above all. Zero is below every key.
__device__ __forceinline__ uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_ordered(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ float warp_max(float x) {
  return from_ordered(__reduce_max_sync(0xffffffffu, ordered(x)));
}

__device__ __forceinline__ uint64_t warp_min(uint64_t x) {
  const uint32_t high = __reduce_min_sync(0xffffffffu, uint32_t(x >> 32));
  const uint32_t low = uint32_t(x >> 32) == high ? uint32_t(x) : 0xffffffffu;
  return uint64_t(high) << 32 | __reduce_min_sync(0xffffffffu, low);
}

// The same order of additions in every lane, so that all of them have the same bits.
template <class T>
__device__ __forceinline__ T warp_add(T x) {
#pragma unroll
  for (int by = 16; by; by /= 2) x += __shfl_xor_sync(0xffffffffu, x, by);
  return x;
}

// A 64-bit addition, in any order, as two of 32 bits: the low half says whether it carries.
__device__ __forceinline__ void add_halves(uint32_t* low, uint32_t* high, uint64_t x) {
  const uint32_t x_low = uint32_t(x);
  const uint32_t carry = x_low && atomicAdd(low, x_low) > ~x_low;
  const uint32_t x_high = uint32_t(x >> 32) + carry;
  if (x_high) atomicAdd(high, x_high);
}
__device__ __forceinline__ void add_mass(uint64_t* sum, uint64_t x) {
  uint32_t* halves = reinterpret_cast<uint32_t*>(sum);
  add_halves(halves, halves + 1, x);
}

// The sum of x over this lane and those before it.
__device__ __forceinline__ uint64_t warp_scan(uint64_t x) {
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const uint64_t other = __shfl_up_sync(0xffffffffu, x, by);
    if (int(thread_index() % 32) >= by) x += other;
  }
  return x;
}

// The whole block: the sum of x over the threads before this one; `total` over all. The caller
// has a barrier between two scans.
template <int kThreads>
__device__ __forceinline__ uint64_t scan_before(uint64_t x, uint64_t* partial, uint64_t& total) {
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  const uint64_t sum = warp_scan(x);
  if (lane == 31) partial[warp] = sum;
  __syncthreads();
  uint64_t before = sum - x;
  total = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) {
    const uint64_t share = partial[i];
    before += i < warp ? share : 0;
    total += share;
  }
  return before;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_REDUCE_CUH_
