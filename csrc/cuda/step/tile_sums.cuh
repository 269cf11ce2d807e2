// What the tiles' maxima and masses say of the whole row. Every warp of the block works it out for
// itself, four tiles a lane at a time: that takes no barrier, and all lanes have the result.
#ifndef EFT_CUDA_STEP_TILE_SUMS_CUH_
#define EFT_CUDA_STEP_TILE_SUMS_CUH_

#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

constexpr int kTilesAtOnce = 128;  // of a warp

struct FourMaxima {
  float z[4];
};

// tile_max of the lane's four tiles from `first` on.
__device__ __forceinline__ FourMaxima maxima_at(const RowWork& w, int first) {
  const Bits128 four = *reinterpret_cast<const Bits128*>(w.tile_max + first);
  FourMaxima maxima;
#pragma unroll
  for (int i = 0; i < 4; ++i) maxima.z[i] = __uint_as_float(four.x[i]);
  return maxima;
}

__device__ __forceinline__ int first_tile_of_lane() { return int(thread_index() % 32) * 4; }

__device__ __forceinline__ RowMax row_max_of(const RowWork& w, int num_tiles, float c) {
  uint32_t key = 0;
#pragma unroll 1
  for (int first = first_tile_of_lane(); first < num_tiles; first += kTilesAtOnce) {
    const FourMaxima maxima = maxima_at(w, first);
#pragma unroll
    for (int i = 0; i < 4; ++i) key = max(key, ordered(maxima.z[i]));
  }
  const float z = from_ordered(__reduce_max_sync(0xffffffffu, key)), t = z * c;
  return {z, t, floorf(t), t < INFINITY && t > -INFINITY};
}

// The first tile that holds the largest z.
__device__ __forceinline__ int first_tile_with(const RowWork& w, int num_tiles, float max_z) {
  uint32_t best = kLastId;
#pragma unroll 1
  for (int first = first_tile_of_lane(); first < num_tiles; first += kTilesAtOnce) {
    const FourMaxima maxima = maxima_at(w, first);
#pragma unroll
    for (int i = 3; i >= 0; --i) {
      if (maxima.z[i] == max_z) best = smaller(best, uint32_t(first + i));
    }
  }
  return int(__reduce_min_sync(0xffffffffu, best));
}

// The masses of the lane's four tiles, as parts of the row's: W_T >> (A - a_T).
__device__ __forceinline__ uint64_t shares_at(const RowWork& w, const uint64_t* masses, int first,
                                              float c, float a, uint64_t* shares) {
  const FourMaxima maxima = maxima_at(w, first);
  uint64_t sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    shares[i] = masses[first + i] >> tile_shift(a, floorf(maxima.z[i] * c));
    sum += shares[i];
  }
  return sum;
}

// `masses` is tile_mass or survivor_mass; what lies behind num_tiles does not count.
__device__ __forceinline__ uint64_t total_mass(const RowWork& w, const uint64_t* masses,
                                               int num_tiles, float c, float a) {
  uint64_t sum = 0;
#pragma unroll 1
  for (int first = first_tile_of_lane(); first < num_tiles; first += kTilesAtOnce) {
    uint64_t shares[4];
    sum += shares_at(w, masses, first, c, a, shares);
  }
  return warp_add(sum);
}

// The tile that holds a draw, and the draw's offset within that tile's mass.
struct TileDraw {
  uint64_t total;  // S
  uint64_t offset;
  int tile;
};

__device__ __forceinline__ TileDraw draw_tile(const RowWork& w, const uint64_t* masses,
                                              int num_tiles, float c, float a, uint64_t bits) {
  TileDraw draw = {total_mass(w, masses, num_tiles, c, a), 0, 0};
  uint64_t rest = mul_high(bits, draw.total);
#pragma unroll 1
  for (int start = 0; start < num_tiles; start += kTilesAtOnce) {
    const int first = start + first_tile_of_lane();
    uint64_t shares[4] = {}, sum = 0;
    if (first < num_tiles) sum = shares_at(w, masses, first, c, a, shares);
    const uint64_t end = warp_scan(sum);
    const uint32_t holds = __ballot_sync(0xffffffffu, rest < end);
    if (!holds) {
      rest -= __shfl_sync(0xffffffffu, end, 31);
      continue;
    }
    const int lane = __ffs(int(holds)) - 1;
    uint64_t offset = rest - (end - sum);
    int tile = first;
    bool found = false;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      found |= offset < shares[i];
      offset -= found ? 0 : shares[i];
      tile += !found;
    }
    draw.tile = __shfl_sync(0xffffffffu, tile, lane);
    rest = __shfl_sync(0xffffffffu, offset, lane);
    break;
  }
  // The bits behind the comma of bits * total / 2^64 refine the draw within the tile.
  const int shift = tile_shift(a, floorf(w.tile_max[draw.tile] * c));
  draw.offset = shift ? (rest << shift) | (bits * draw.total) >> (64 - shift) : rest;
  return draw;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_TILE_SUMS_CUH_
