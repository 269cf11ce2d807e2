// From 64 random bits to a token (numerics.md §5), by the leader's block. The tiles' masses
// give the tile (tile_sums.cuh), and the masses of that tile's survivors the token. Greedy rows:
// the first of the largest z.
#ifndef EFT_CUDA_STEP_DRAW_CUH_
#define EFT_CUDA_STEP_DRAW_CUH_

#include "common/log2.h"
#include "common/philox.h"
#include "cuda/step/tile_sums.cuh"

namespace eft {
namespace {

// The random bits of a row's draw: Philox, by the row's seed and position alone.
__device__ __forceinline__ uint64_t bits_of_draw(const RowOptions& o) {
  return random_bits(o.seed, o.position, 0, kSample);
}

// One thread, while no other reads the options.
__device__ __forceinline__ void set_up_draw(const Plan& plan, int64_t row, const RowDraw& draw,
                                            RowWork& w) {
  set_draw(plan, row, draw, w.options);
  w.draw_bits = bits_of_draw(w.options);
}

// The place of the drawn token in a thread's piece; -1 in all threads but one. Weights are in the
// order of ids, 8 in each of the block's first 128 threads.
template <class Team>
__device__ __forceinline__ int pick_in_tile(const Team& team, const uint64_t* weights,
                                            uint64_t offset) {
  uint64_t sum = 0, total;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) sum += weights[i];
  const uint64_t before = scan_before<Team::kThreads>(sum, team.own->warp_partial, total);
  if (offset < before || offset >= before + sum) return -1;
  uint64_t rest = offset - before;
  int picked = 0;
  bool found = false;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    found |= rest < weights[i];
    rest -= found ? 0 : weights[i];
    picked += !found;
  }
  return picked;
}

// A token and its z, or its t; -1 in all threads but the one that found it.
struct Drawn {
  int token = -1;
  float at = 0.0f;
};

// The mass of a tile's survivors, at the tile's reference.
struct SurvivorMass {
  Cutoff cutoff;
  float c, reference;
  __device__ __forceinline__ uint64_t operator()(int id, float z) const {
    const float t = z * c;
    return keeps(cutoff, t, uint32_t(id)) ? token_mass(t, reference) : 0;
  }
};

// Reads a tile and draws from it; `weight(id, z)` is a token's. Gives the token with its z.
template <class Team, class Source, class Weight>
__device__ __forceinline__ Drawn draw_in_tile(const Team& team, const Source& source, int tile,
                                              uint64_t offset, const Weight& weight) {
  uint64_t weights[kPiece] = {};
  float z[kPiece];
  const int first = tile * kTile + int(thread_index()) * kPiece;
  if (thread_index() < kTile / kPiece) {
    typename Source::Raw raw;
    source.load(first, raw);
    source.mix(first, raw, z);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) weights[i] = weight(first + i, z[i]);
  }
  const int picked = pick_in_tile(team, weights, offset);
  Drawn drawn;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    if (picked == i) drawn = {first + i, z[i]};
  }
  return drawn;
}

// The same where the candidates hold the tile's survivors, up to `last`: those are listed, and
// ranked by id. Gives the token with its t. False where they are too many for the list.
template <class Team>
__device__ __forceinline__ bool draw_candidate(const Team& team, int tile, uint64_t offset,
                                               uint64_t last, float a, Drawn& drawn) {
  RowWork& w = *team.own;
#pragma unroll 1
  for (int i = thread_index(); i < int(w.num_candidates); i += Team::kThreads) {
    const uint64_t key = w.candidates[i];
    if (key > last || int(key_id(key) / kTile) != tile) continue;
    const uint32_t slot = atomicAdd(&w.num_in_tile, 1u);
    if (slot < kMaxFinalists) w.finalists[slot] = {key, token_mass(key_t(key), a)};
  }
  __syncthreads();
  const int count = int(w.num_in_tile);
  if (count > kMaxFinalists) return false;
  static_assert(kMaxFinalists <= Team::kThreads, "a thread each");
  if (int(thread_index()) >= count) return true;
  const Finalist own = w.finalists[thread_index()];
  uint64_t before = 0;
#pragma unroll 4
  for (int j = 0; j < count; ++j) {
    const Finalist other = w.finalists[j];
    before += key_id(other.key) < key_id(own.key) ? other.weight : 0;
  }
  if (offset >= before && offset < before + own.weight) {
    drawn = {int(key_id(own.key)), key_t(own.key)};
  }
  return true;
}

// The log-probability of t under the filtered distribution of mass `total`. Never above 0, though
// the mass is only within 1.5e-7 of 2^t.
__device__ __forceinline__ float logprob_of(float t, const RowMax& max, uint64_t total) {
  const double log2_mass = log2_exact_bits(double(total)) - 40.0;
  return fminf(0.0f, float(kLn2 * ((double(t) - double(max.reference)) - log2_mass)));
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_DRAW_CUH_
