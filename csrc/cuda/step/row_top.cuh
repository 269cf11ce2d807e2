// What the tiles say of their row.
#ifndef EFT_CUDA_STEP_ROW_TOP_CUH_
#define EFT_CUDA_STEP_ROW_TOP_CUH_

#include "cuda/step/visit.cuh"

namespace eft {
namespace {

// The team together. Every block works it out for itself from the leader's tile maxima.
template <class Team>
__device__ __forceinline__ RowTop row_top(const Team& team, int num_tiles, float c) {
  RowWork& w = *team.own;
  uint32_t key = 0;
  for (int i = thread_index(); i < num_tiles; i += Team::kThreads) {
    const uint32_t other = ordered(team.lead->tile_max[i]);
    key = other > key ? other : key;
  }
  key = __reduce_max_sync(0xffffffffu, key);
  if (thread_index() % 32 == 0) w.partial[thread_index() / 32] = key;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Team::kThreads / 32; ++i) {
    const uint32_t other = uint32_t(w.partial[i]);
    key = other > key ? other : key;
  }
  const float z = from_ordered(key), t = z * c;
  return {z, t, floorf(t), t < INFINITY && t > -INFINITY};
}

// Leader's block: sum of W_T >> (A - a_T).
template <class Team>
__device__ __forceinline__ uint64_t total_mass(const Team& team, int num_tiles, float c, float a) {
  RowWork& w = *team.own;
  uint64_t own = 0, total;
  for (int i = thread_index(); i < num_tiles; i += Team::kThreads) {
    own += w.tile_mass[i] >> tile_shift(a, floorf(w.tile_max[i] * c));
  }
  scan_before<Team::kThreads>(own, w.partial, total);
  return total;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_ROW_TOP_CUH_
