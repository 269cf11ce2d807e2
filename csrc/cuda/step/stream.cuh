// Streaming: several blocks a row, a warp a tile, every input read once. The block that takes a
// row's last ticket finishes the row and reads again the groups it needs; no block waits for
// another.
#ifndef EFT_CUDA_STEP_STREAM_CUH_
#define EFT_CUDA_STEP_STREAM_CUH_

#include "cuda/common/tile.cuh"
#include "cuda/step/finish.cuh"
#include "cuda/step/source.cuh"

namespace eft {
namespace {

// Thread 0 of each block. A row without valid nuclei is invalid.
__device__ __forceinline__ void set_up_row(const Plan& plan, int64_t row, int model, RowWork& w) {
  RowOptions& o = w.options;
  o = options_of(plan, row);
  if (plan.stage == kModelNuclei) {
    o = nucleus_options(o);
  } else if (plan.step.conservative && o.conservative_top_p != kWhole) {
    const Nucleus& nucleus = plan.workspace.nuclei[row - plan.first_row];
    o.valid &= nucleus.valid[0] && nucleus.valid[1] && nucleus.valid[2];
  }
  if (o.valid) set_row_inputs(plan, o, row, model, w.inputs);
}

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
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // what this block wrote, before its ticket
    const uint32_t ticket = atomicAdd(plan.workspace.tickets + slot, 1u);
    w.is_last = ticket == gridDim.x - 1;
    if (w.is_last) {
      plan.workspace.tickets[slot] = 0;  // for the next launch, or the graph's next replay
      read_draw(plan, row, w.options);
      __threadfence();
    }
  }
  __syncthreads();
  return w.is_last;
}

// Loads the tile summaries of the row, for the block that finishes it.
__device__ __forceinline__ void collect_tiles(const Plan& plan, int slot, RowWork& w) {
  const Workspace& space = plan.workspace;
  const int64_t first = int64_t(slot) * plan.num_tiles;
  if (threadIdx.x == 0) w.group_maxima = space.group_max + first * kGroups;
  for (int i = threadIdx.x; i < plan.num_tiles; i += kStreamThreads) {
    [[maybe_unused]] const OneRoundTrip together;
    w.tile_max[i] = load_written(space.tile_max + first + i);
    w.tile_mass[i] = load_written(space.tile_mass + first + i);
  }
  __syncthreads();
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
  if (is_nuclei_stage && plan.targets && plan.targets[row] == plan.ignore_index) return;
  if (threadIdx.x == 0) set_up_row(plan, row, model, w);
  __syncthreads();
  if (is_nuclei_stage && w.options.top_p == kWhole) return;  // switched off in this row

  const bool valid = w.options.valid;
  const bool masses = !w.options.greedy;
  const int lane = threadIdx.x % 32;
  const int64_t first_tile = int64_t(slot) * plan.num_tiles;
  const Workspace& space = plan.workspace;
  for (int tile = int(threadIdx.x / 32 * gridDim.x + blockIdx.x);
       tile < plan.num_tiles && (valid || mix_only); tile += int(kStreamThreads / 32 * gridDim.x)) {
    float z[kGroup];
    const bool bad = valid && mix_tile<kNumBf16Models, kConservative>(w.inputs, tile, lane, z);
    if (mix_only) {
      write_mixture(plan, row, tile, lane, z, valid);
      continue;
    }
    const TileSummary s = summarise<kConservative>(w.inputs, tile, lane, z, bad, masses);
    const int64_t at = first_tile + tile;
    space.group_max[at * kGroups + lane] = s.group_max;
    if (lane == 0) space.tile_max[at] = s.max, space.tile_mass[at] = s.mass;
    if (plan.wants_stats) {
      tile_stats(w.inputs, plan.step, tile, lane, z, s.max, space.stats + at * kMaxStats);
    }
  }
  if (mix_only || !takes_last_ticket(plan, slot, row, w)) return;

  if (!w.options.valid) {
    if (!is_nuclei_stage) return write_invalid(plan.step, row);
    if (threadIdx.x == 0) space.nuclei[row - plan.first_row].valid[model] = 0;
    return;
  }
  if (threadIdx.x == 0) {
    w.row = row;
    w.model = model;
    w.stats = space.stats + first_tile * kMaxStats;
  }
  collect_tiles(plan, slot, w);
  const auto team = one_block_team(w);
  const StreamSource<kNumBf16Models, kConservative> source = {&w, plan.num_tiles};
  finish_row(team, source, plan);
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
