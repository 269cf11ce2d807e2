// The reading of a row: all of its tiles by its blocks, a warp a tile. Where a row has own tokens
// (numerics.md §15), the block that takes the last ticket knows delta by then, and reads the tiles
// that hold special tokens again.
#ifndef EFT_CUDA_STEP_READ_CUH_
#define EFT_CUDA_STEP_READ_CUH_

#include "cuda/common/special.cuh"
#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

// The row's delta, from its tiles' maxima, and the tiles with special tokens, into w.groups.
// Returns the number of these.
__device__ __forceinline__ int form_own_delta(const Plan& plan, int slot, RowWork& w) {
  const Workspace& space = plan.workspace;
  const int64_t first_tile = int64_t(slot) * plan.num_tiles;
  uint32_t best = 0, best_of_owner = 0;
#pragma unroll 1
  for (int tile = thread_index(); tile < plan.num_tiles; tile += kStreamThreads) {
    [[maybe_unused]] const OneRoundTrip together;
    best = max(best, ordered(load_written(space.tile_max + first_tile + tile)));
    best_of_owner = max(best_of_owner, ordered(load_written(space.owner_max + first_tile + tile)));
    if (__ldg(plan.step.special.tiles + tile) < 0) continue;
    w.groups[atomicAdd(&w.num_groups, 1u)] = uint16_t(tile);
  }
  best = __reduce_max_sync(0xffffffffu, best);
  best_of_owner = __reduce_max_sync(0xffffffffu, best_of_owner);
  if (thread_index() % 32 == 0) {
    w.warp_partial[thread_index() / 32] = uint64_t(best) << 32 | best_of_owner;
  }
  __syncthreads();
  if (thread_index() == 0) {
#pragma unroll 1
    for (int i = 1; i < kStreamThreads / 32; ++i) {
      best = max(best, uint32_t(w.warp_partial[i] >> 32));
      best_of_owner = max(best_of_owner, uint32_t(w.warp_partial[i]));
    }
    const float y = from_ordered(best), tau = from_ordered(best_of_owner);
    set_own_delta(w.inputs, y == -INFINITY ? 0.0f : y - tau);
    space.own_deltas[slot] = w.inputs.own_delta;
  }
  __syncthreads();
  return int(w.num_groups);
}

// Calls `read(tile)` by whole warps, while `reads`, then `takes_last()` by all threads of the
// block: true for those of one block. Returns what that gave.
template <class Read, class TakesLast>
__device__ __forceinline__ bool read_tiles(const Plan& plan, int slot, bool reads, RowWork& w,
                                           const Read& read, const TakesLast& takes_last) {
  constexpr int kWarps = kStreamThreads / 32;
  int first = int(threadIdx.x / 32 * gridDim.x + blockIdx.x), step = int(kWarps * gridDim.x);
  int count = reads ? plan.num_tiles : 0;
  bool again = false;
#pragma unroll 1
  while (true) {  // one copy of `read`
#pragma unroll 1
    for (int i = first; i < count; i += step) read(again ? int(w.groups[i]) : i);
    if (again) break;
    if (!takes_last()) return false;
    if (!w.options.valid || w.inputs.owner < 0) return true;
    count = form_own_delta(plan, slot, w);
    first = int(thread_index() / 32);
    step = kWarps;
    again = true;
  }
  __syncthreads();
  if (thread_index() == 0) w.num_groups = 0;
  return true;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_READ_CUH_
