// From 64 random bits to a token, and the first of the largest. By the leader's block alone.
#ifndef EFT_CUDA_STEP_DRAW_CUH_
#define EFT_CUDA_STEP_DRAW_CUH_

#include "common/log2.h"
#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

// The tile of the draw and the rest within it into w.tile and w.rest; the survivors' mass S, which
// w.tile_mass holds by tiles, into w.total.
template <class Team>
__device__ __forceinline__ void draw_tile(const Team& team, int num_tiles, float c, float a,
                                          uint64_t bits) {
  constexpr int kEach = (kMaxTiles + Team::kThreads - 1) / Team::kThreads;
  RowWork& w = *team.own;
  const int first = int(thread_index()) * kEach, end = smaller(first + kEach, num_tiles);
  uint64_t own = 0, total;
  for (int i = first; i < end; ++i) {
    own += w.tile_mass[i] >> tile_shift(a, floorf(w.tile_max[i] * c));
  }
  const uint64_t before = scan_before<Team::kThreads>(own, w.partial, total);
  uint64_t rest = mul_high(bits, total);
  if (rest >= before && rest < before + own) {
    rest -= before;
    int tile = first, shift = 0;
    for (;; ++tile) {
      shift = tile_shift(a, floorf(w.tile_max[tile] * c));
      const uint64_t share = w.tile_mass[tile] >> shift;
      if (rest < share) break;
      rest -= share;
    }
    w.rest = shift ? (rest << shift) | (bits * total) >> (64 - shift) : rest;
    w.tile = tile;
    w.total = total;
  }
  __syncthreads();
}

// The first tile that holds the largest z, into w.tile.
template <class Team>
__device__ __forceinline__ void first_tile_of(const Team& team, int num_tiles, float max_z) {
  RowWork& w = *team.own;
  if (thread_index() == 0) w.first = kLastId;
  __syncthreads();
  for (int i = thread_index(); i < num_tiles; i += Team::kThreads) {
    if (w.tile_max[i] == max_z) atomicMin(&w.first, uint32_t(i));
  }
  __syncthreads();
  if (thread_index() == 0) w.tile = int(w.first), w.first = kLastId;
  __syncthreads();
}

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

// Of the loaded tile w.tile.
template <class Team>
__device__ __forceinline__ int first_in_tile(const Team& team, float max_z) {
  RowWork& w = *team.own;
  for (int i = thread_index(); i < kTile; i += Team::kThreads) {
    if (w.tile_z[i] == max_z) atomicMin(&w.first, uint32_t(i));
  }
  __syncthreads();
  return w.tile * kTile + int(w.first);
}

// The first token of tile w.tile whose running w.place_mass exceeds w.rest.
template <class Team>
__device__ __forceinline__ int pick_place(const Team& team) {
  constexpr int kEach = kTile / Team::kThreads;
  RowWork& w = *team.own;
  const int first = int(thread_index()) * kEach;
  uint64_t own = 0, total;
#pragma unroll
  for (int i = 0; i < kEach; ++i) own += w.place_mass[first + i];
  const uint64_t before = scan_before<Team::kThreads>(own, w.partial, total);
  if (w.rest >= before && w.rest < before + own) {
    uint64_t rest = w.rest - before;
    int i = first;
    while (rest >= w.place_mass[i]) rest -= w.place_mass[i++];
    w.token = w.tile * kTile + i;
  }
  __syncthreads();
  return w.token;
}

// The token at w.rest of tile w.tile, which is loaded or whose survivors are listed.
template <class Team>
__device__ __forceinline__ int draw_in_tile(const Team& team, const Survivors& s, float c) {
  RowWork& w = *team.own;
  const int tile = w.tile;
  const float a = floorf(w.tile_max[tile] * c);
  if (s.listed) {
    for (int i = thread_index(); i < kTile; i += Team::kThreads) w.place_mass[i] = 0;
    __syncthreads();
    const uint64_t last = rank_key(s.limit.t, s.limit.id);
    for (int i = thread_index(); i < int(w.list_count); i += Team::kThreads) {
      const uint64_t key = w.list[i];
      const int id = int(key_id(key));
      if (key <= last && id / kTile == tile) w.place_mass[id % kTile] = token_mass(key_t(key), a);
    }
  } else {
    for (int i = thread_index(); i < kTile; i += Team::kThreads) {
      const float t = w.tile_z[i] * c;
      w.place_mass[i] = keeps(s.limit, t, uint32_t(tile * kTile + i)) ? token_mass(t, a) : 0;
    }
  }
  __syncthreads();
  return pick_place(team);
}

// Under the filtered distribution; the token's tile is loaded. The mass is within 1.5e-7 of 2^t: a
// token that is alone must not come out above 0.
__device__ __forceinline__ float drawn_logprob(const RowWork& w, int token) {
  const double log2_mass = log2_exact_bits(double(w.total)) - 40.0;
  const double t = double(w.tile_z[token % kTile] * w.options.scale);
  return fminf(0.0f, float(kLn2 * ((t - double(w.top.reference)) - log2_mass)));
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_DRAW_CUH_
