// From 64 random bits to a token (docs/numerics.md §5), by the leader's block. tile_mass gives the
// tile, and the masses of that tile's survivors the token. Greedy rows: the first of the largest z.
//
// draw_tile     tile_mass, tile_max, bits       → tile, draw_offset, total
// draw_in_tile  tile, draw_offset, survivors    → the token
// first_tile_of, first_in_tile  tile_max, max z → the first token with the largest z
#ifndef EFT_CUDA_STEP_DRAW_CUH_
#define EFT_CUDA_STEP_DRAW_CUH_

#include "common/log2.h"
#include "common/philox.h"
#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

// The random bits of a row's draw: Philox, by the row's seed and position alone.
__device__ __forceinline__ uint64_t bits_of_draw(const RowOptions& o) {
  return random_bits(o.seed, o.position, 0, kSample);
}

// The tile that holds the draw into w.tile, the draw's offset within that tile's mass into
// w.draw_offset.
// w.tile_mass holds the survivors' mass by tiles; their sum S goes into w.total.
template <class Team>
__device__ __forceinline__ void draw_tile(const Team& team, int num_tiles, float c, float a,
                                          uint64_t bits) {
  constexpr int kEach = (kMaxTiles + Team::kThreads - 1) / Team::kThreads;
  RowWork& w = *team.own;
  const int first = int(thread_index()) * kEach, end = smaller(first + kEach, num_tiles);
  uint64_t mass = 0, total;
  for (int i = first; i < end; ++i) {
    mass += w.tile_mass[i] >> tile_shift(a, floorf(w.tile_max[i] * c));
  }
  const uint64_t before = scan_before<Team::kThreads>(mass, w.warp_partial, total);
  uint64_t rest = mul_high(bits, total);
  if (rest >= before && rest < before + mass) {
    rest -= before;
    int tile = first, shift = 0;
    for (;; ++tile) {
      shift = tile_shift(a, floorf(w.tile_max[tile] * c));
      const uint64_t share = w.tile_mass[tile] >> shift;
      if (rest < share) break;
      rest -= share;
    }
    w.draw_offset = shift ? (rest << shift) | (bits * total) >> (64 - shift) : rest;
    w.tile = tile;
    w.total = total;
  }
  __syncthreads();
}

// The first tile that holds the largest z, into w.tile.
template <class Team>
__device__ __forceinline__ void first_tile_of(const Team& team, int num_tiles, float max_z) {
  RowWork& w = *team.own;
  if (thread_index() == 0) w.first_max_index = kLastId;
  __syncthreads();
  for (int i = thread_index(); i < num_tiles; i += Team::kThreads) {
    if (w.tile_max[i] == max_z) atomicMin(&w.first_max_index, uint32_t(i));
  }
  __syncthreads();
  if (thread_index() == 0) w.tile = int(w.first_max_index), w.first_max_index = kLastId;
  __syncthreads();
}

// z of tile w.tile into w.tile_z.
template <class Team, class Source>
__device__ __forceinline__ void load_tile(const Team& team, const Source& source) {
  RowWork& w = *team.own;
#pragma unroll 1
  for (int i = int(thread_index()) * kPiece; i < kTile; i += Team::kThreads * kPiece) {
    float z[kPiece];
    source.load_anywhere(w.tile * kTile + i, z);
#pragma unroll
    for (int j = 0; j < kPiece; ++j) w.tile_z[i + j] = z[j];
  }
  __syncthreads();
}

// The first token with the largest z in tile w.tile, which is loaded.
template <class Team>
__device__ __forceinline__ int first_in_tile(const Team& team, float max_z) {
  RowWork& w = *team.own;
  for (int i = thread_index(); i < kTile; i += Team::kThreads) {
    if (w.tile_z[i] == max_z) atomicMin(&w.first_max_index, uint32_t(i));
  }
  __syncthreads();
  return w.tile * kTile + int(w.first_max_index);
}

// The first token of tile w.tile whose running w.token_masses exceeds w.draw_offset.
template <class Team>
__device__ __forceinline__ int pick_token(const Team& team) {
  constexpr int kEach = kTile / Team::kThreads;
  RowWork& w = *team.own;
  const int first = int(thread_index()) * kEach;
  uint64_t mass = 0, total;
#pragma unroll
  for (int i = 0; i < kEach; ++i) mass += w.token_masses[first + i];
  const uint64_t before = scan_before<Team::kThreads>(mass, w.warp_partial, total);
  if (w.draw_offset >= before && w.draw_offset < before + mass) {
    uint64_t rest = w.draw_offset - before;
    int i = first;
    while (rest >= w.token_masses[i]) rest -= w.token_masses[i++];
    w.token = w.tile * kTile + i;
  }
  __syncthreads();
  return w.token;
}

// The token at w.draw_offset of tile w.tile: it is loaded, or its survivors are candidates.
template <class Team>
__device__ __forceinline__ int draw_in_tile(const Team& team, const Survivors& s, float c) {
  RowWork& w = *team.own;
  const int tile = w.tile;
  const float a = floorf(w.tile_max[tile] * c);
  if (s.in_candidates) {
    for (int i = thread_index(); i < kTile; i += Team::kThreads) w.token_masses[i] = 0;
    __syncthreads();
    const uint64_t last = rank_key(s.cutoff.t, s.cutoff.id);
    for (int i = thread_index(); i < int(w.num_candidates); i += Team::kThreads) {
      const uint64_t key = w.candidates[i];
      const int id = int(key_id(key));
      if (key <= last && id / kTile == tile) w.token_masses[id % kTile] = token_mass(key_t(key), a);
    }
  } else {
    for (int i = thread_index(); i < kTile; i += Team::kThreads) {
      const float t = w.tile_z[i] * c;
      w.token_masses[i] = keeps(s.cutoff, t, uint32_t(tile * kTile + i)) ? token_mass(t, a) : 0;
    }
  }
  __syncthreads();
  return pick_token(team);
}

// The token's log-probability under the filtered distribution; its tile is loaded. Never above 0,
// though the mass is only within 1.5e-7 of 2^t.
__device__ __forceinline__ float drawn_logprob(const RowWork& w, int token) {
  const double log2_mass = log2_exact_bits(double(w.total)) - 40.0;
  const double t = double(w.tile_z[token % kTile] * w.options.scale);
  return fminf(0.0f, float(kLn2 * ((t - double(w.max.reference)) - log2_mass)));
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_DRAW_CUH_
