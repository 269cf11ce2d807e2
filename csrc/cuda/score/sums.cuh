// A row's sums: one warp adds its tiles' shares, in double and always in the same order, so that no
// grid and no order of blocks changes a bit.
#ifndef EFT_CUDA_SCORE_SUMS_CUH_
#define EFT_CUDA_SCORE_SUMS_CUH_

#include "cuda/common/reduce.cuh"
#include "cuda/score/plan.cuh"

namespace eft {
namespace {

// Below this the sum of all but the largest token may have lost tokens to underflow.
constexpr double kAlmostCertain = 1e-25;

// Everything relative to the largest logit and without that one token, so that 1 - p is a sum and
// never a difference (csrc/cpu/score_sums.h).
struct RowSums {
  double max, others, weighted, squares;
  int64_t before;

  __device__ double rest() const { return log1p(others); }  // lse - max
  __device__ double max_prob() const { return 1 / (1 + others); }
};

template <class T>
__device__ __forceinline__ T load_share(const T* from) {
  static_assert(sizeof(T) % 4 == 0, "words");
  T out;
  [[maybe_unused]] const OneRoundTrip together;
#pragma unroll
  for (int i = 0; i < int(sizeof(T) / 4); ++i) {
    reinterpret_cast<uint32_t*>(&out)[i] =
        load_written(reinterpret_cast<const uint32_t*>(from) + i);
  }
  return out;
}

// The whole warp. `tile`'s share is taken from `instead` (-1: none is replaced).
__device__ __forceinline__ RowSums add_shares(const TileShare* shares, int num_tiles, int tile,
                                              const TileShare& instead) {
  const int lane = int(threadIdx.x % 32);
  uint32_t key = 0;
  for (int i = lane; i < num_tiles; i += 32) {
    const uint32_t other = ordered(i == tile ? instead.max : load_written(&shares[i].max));
    key = other > key ? other : key;
  }
  const float max = from_ordered(__reduce_max_sync(0xffffffffu, key));
  RowSums s = {double(max), 0, 0, 0, 0};
  if (!(max > -INFINITY && max < INFINITY)) return s;  // nothing left, or NaN
  uint32_t maxima = 0, before = 0;
  for (int i = lane; i < num_tiles; i += 32) {
    const TileShare t = i == tile ? instead : load_share(shares + i);
    before += t.before;
    if (!(t.max > -INFINITY)) continue;
    const bool at_max = t.max == max;
    maxima += at_max ? t.maxima : 0;  // integers: one of them is taken off below
    const double count = at_max ? 0.0 : double(t.maxima);
    const double d = double(t.max) - s.max, e = exp(d), all = double(t.lower) + count;
    s.others += e * all;
    s.weighted += e * (double(t.weighted) + d * all);
    s.squares += e * e * (double(t.squares) + count);
  }
  const double more = double(__reduce_add_sync(0xffffffffu, maxima) - 1);
  s.others = warp_add(s.others) + more;
  s.weighted = warp_add(s.weighted);
  s.squares = warp_add(s.squares) + more;
  s.before = __reduce_add_sync(0xffffffffu, before);
  return s;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_SCORE_SUMS_CUH_
