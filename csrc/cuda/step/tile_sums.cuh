// The row's maximum, mass and drawn tile, from the tiles' maxima and masses. Every warp of the
// block works them out for itself, a lane a run of tiles: that takes no barrier, and all lanes have
// the result.
#ifndef EFT_CUDA_STEP_TILE_SUMS_CUH_
#define EFT_CUDA_STEP_TILE_SUMS_CUH_

#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

// A lane's run of tiles, in fours.
struct LaneTiles {
  int first, end;
};

__device__ __forceinline__ LaneTiles lane_tiles(int num_tiles) {
  const int each = (num_tiles + 127) / 128 * 4, first = int(thread_index() % 32) * each;
  return {first, smaller(first + each, padded_tiles(num_tiles))};
}

// Calls `visit(tile, z)` for each tile of the lane, with the tile's largest z.
template <class Visit>
__device__ __forceinline__ void for_lane_tiles(const RowWork& w, int num_tiles,
                                               const Visit& visit) {
  const LaneTiles own = lane_tiles(num_tiles);
#pragma unroll 1
  for (int tile = own.first; tile < own.end; tile += 4) {
    const Bits128 four = *reinterpret_cast<const Bits128*>(w.tile_max + tile);
#pragma unroll
    for (int i = 0; i < 4; ++i) visit(tile + i, __uint_as_float(four.x[i]));
  }
}

__device__ __forceinline__ RowMax row_max_of(const RowWork& w, int num_tiles, float c) {
  uint32_t key = 0;
  for_lane_tiles(w, num_tiles, [&](int, float z) { key = max(key, ordered(z)); });
  const float z = from_ordered(__reduce_max_sync(0xffffffffu, key)), t = z * c;
  return {z, t, floorf(t), t < INFINITY && t > -INFINITY};
}

// The first tile that holds the largest z.
__device__ __forceinline__ int first_tile_with(const RowWork& w, int num_tiles, float max_z) {
  uint32_t best = kLastId;
  for_lane_tiles(w, num_tiles, [&](int tile, float z) {
    if (z == max_z) best = smaller(best, uint32_t(tile));
  });
  return int(__reduce_min_sync(0xffffffffu, best));
}

// A tile's mass as a part of the row's: W_T >> (A - a_T).
__device__ __forceinline__ uint64_t share_of(uint64_t mass, float tile_max, float c, float a) {
  return mass >> tile_shift(a, floorf(tile_max * c));
}

// The mass of the lane's tiles. `masses` is tile_mass or survivor_mass.
__device__ __forceinline__ uint64_t lane_mass(const RowWork& w, const uint64_t* masses,
                                              int num_tiles, float c, float a) {
  uint64_t sum = 0;
  for_lane_tiles(w, num_tiles, [&](int tile, float z) { sum += share_of(masses[tile], z, c, a); });
  return sum;
}

__device__ __forceinline__ uint64_t total_mass(const RowWork& w, const uint64_t* masses,
                                               int num_tiles, float c, float a) {
  return warp_add(lane_mass(w, masses, num_tiles, c, a));
}

// The tile that holds a draw, and the draw's offset within that tile's mass.
struct TileDraw {
  uint64_t total;  // S
  uint64_t offset;
  int tile;
};

__device__ __forceinline__ TileDraw draw_tile(const RowWork& w, const uint64_t* masses,
                                              int num_tiles, float c, float a, uint64_t bits) {
  const uint64_t sum = lane_mass(w, masses, num_tiles, c, a), end = warp_scan(sum);
  TileDraw draw = {__shfl_sync(0xffffffffu, end, 31), 0, 0};
  uint64_t rest = mul_high(bits, draw.total);
  const uint32_t holds = __ballot_sync(0xffffffffu, rest < end);
  const int lane = holds ? __ffs(int(holds)) - 1 : 0;  // 0 where nothing survives
  draw.tile = lane_tiles(num_tiles).first;
  if (holds && int(thread_index() % 32) == lane) {
    rest -= end - sum;
#pragma unroll 1
    for (;; ++draw.tile) {
      const uint64_t share = share_of(masses[draw.tile], w.tile_max[draw.tile], c, a);
      if (rest < share) break;
      rest -= share;
    }
  }
  draw.tile = __shfl_sync(0xffffffffu, draw.tile, lane);
  rest = __shfl_sync(0xffffffffu, rest, lane);
  // The bits behind the comma of bits * total / 2^64 refine the draw within the tile.
  const int shift = tile_shift(a, floorf(w.tile_max[draw.tile] * c));
  draw.offset = shift ? (rest << shift) | (bits * draw.total) >> (64 - shift) : rest;
  return draw;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_TILE_SUMS_CUH_
