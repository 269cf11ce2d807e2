// Streaming: several blocks a row, a warp a tile, every input read once. The block that takes a
// row's last ticket finishes the row and reads again the groups it needs; no block waits for
// another.
#ifndef EFT_CUDA_STEP_STREAM_CUH_
#define EFT_CUDA_STEP_STREAM_CUH_

#include "cuda/common/tile.cuh"
#include "cuda/step/finish.cuh"
#include "cuda/step/read.cuh"
#include "cuda/step/set_up.cuh"
#include "cuda/step/source.cuh"

namespace eft {
namespace {

// kMixOnly: a tile of z, or NaN in a row that is not valid.
__device__ __forceinline__ void write_mixture(const Plan& plan, int64_t row, int tile, int lane,
                                              const float* z, bool valid) {
  float* out = plan.z + row * plan.z_row_stride;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    const int id = token_id(tile, lane, i);
    if (id < plan.step.vocab_size) out[id] = valid ? z[i] : NAN;
  }
}

// True for all threads of the block that takes the row's last ticket, and so finishes the row.
__device__ __forceinline__ bool takes_last_ticket(const Plan& plan, int slot, int64_t row,
                                                  RowWork& w) {
  // The first thread takes the ticket; the 33rd asks for the draw while others still read tiles.
  const bool draws = threadIdx.x == 32 && plan.stage != kMixOnly;
  RowDraw draw;
  if (draws) draw = load_draw(plan, row);
  __syncthreads();
  if (threadIdx.x == 0) w.is_last = is_last_ticket(plan.workspace.tickets + slot);
  if (draws) set_up_draw(plan, row, draw, w);
  __syncthreads();
  return w.is_last;
}

// Grid: (blocks a row, rows); kModelNuclei: (blocks a row, 3 * rows). kNumBf16Models is the number
// of bf16 models that the kernel is compiled for; 0 takes any dtypes, bias and bitmask.
template <int kNumBf16Models, bool kConservative>
__device__ __forceinline__ void stream_row(const Plan& plan) {
  RowWork& w = *reinterpret_cast<RowWork*>(dynamic_shared());
  const bool is_nuclei_stage = plan.stage == kModelNuclei, mix_only = plan.stage == kMixOnly;
  const int slot = int(blockIdx.y);
  const int model = is_nuclei_stage ? slot % 3 : 0;
  const int64_t row = plan.first_row + (is_nuclei_stage ? slot / 3 : slot);
  if (plan.targets && plan.targets[row] == plan.ignore_index) return;
  clear_row_work<kStreamThreads>(w);
  if (threadIdx.x == 0) set_up_row(plan, row, model, w);
  __syncthreads();
  if (is_nuclei_stage && w.options.top_p == kWhole) return;  // switched off in this row

  const bool valid = w.options.valid, special = valid && plan.step.special.tiles;
  const bool masses = !w.options.greedy && !mix_only;
  const int lane = threadIdx.x % 32;
  const int64_t first_tile = int64_t(slot) * plan.num_tiles;
  const Workspace& space = plan.workspace;
  const auto read = [&](int tile) {
    float z[kGroup];
    bool bad = valid && mix_tile<kNumBf16Models, kConservative>(w.inputs, tile, lane, z);
    if (special) bad = set_special<4>(w.inputs, piece_id(tile, 0, lane), kTile / 4, z, bad);
    if (mix_only) {
      if (plan.z) write_mixture(plan, row, tile, lane, z, valid);
      if (!special || !needs_own_delta(w.inputs)) return;
    }
    const TileSummary s = summarise<kConservative>(w.inputs, tile, lane, z, bad, masses);
    const int64_t at = first_tile + tile;
    space.group_max[at * kGroups + lane] = s.group_max;
    if (lane == 0) space.tile_max[at] = s.max, space.tile_mass[at] = s.mass;
    if (plan.wants_stats) {
      tile_stats(w.inputs, plan.step, tile, lane, z, s.max, space.stats + at * kMaxStats);
    }
    if (special && needs_own_delta(w.inputs)) {
      const float largest = largest_of_owner(w.inputs, tile, lane, z);
      if (lane == 0) space.owner_max[at] = largest;
    }
  };
  const auto takes_last = [&] {
    const bool finishes = !mix_only || (special && w.inputs.owner >= 0);
    return finishes && takes_last_ticket(plan, slot, row, w);
  };
  const bool finishes = read_tiles(plan, slot, valid || mix_only, w, read, takes_last);
  if (mix_only || !finishes) return;

  if (!w.options.valid) {
    if (!is_nuclei_stage) return write_invalid(plan.step, row);
    if (threadIdx.x == 0) space.nuclei[row - plan.first_row].valid[model] = 0;
    return;
  }
  const StreamSource<kNumBf16Models, kConservative> source = {&w, plan.num_tiles, &space,
                                                              first_tile};
  finish_row(one_block_team(w), source, plan);
}

// Two blocks a multiprocessor; one for conservative mixtures, which hold a second logit a token.
template <int kNumBf16Models, bool kConservative>
__global__ void __launch_bounds__(kStreamThreads, kConservative ? 1 : 2)
    stream_kernel(const __grid_constant__ Plan plan) {
  stream_row<kNumBf16Models, kConservative>(plan);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_STREAM_CUH_
