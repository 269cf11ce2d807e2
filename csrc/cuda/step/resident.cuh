// Resident: a cluster of blocks a row, from sm_90 on. z stays in the cluster's shared memory:
// nothing is read twice, and nothing but results is written.
#ifndef EFT_CUDA_STEP_RESIDENT_CUH_
#define EFT_CUDA_STEP_RESIDENT_CUH_

#include "cuda/common/tile.cuh"
#include "cuda/step/finish.cuh"
#include "cuda/step/source.cuh"

namespace eft {
namespace {

// Every block sends the summaries of its tiles to the cluster's other blocks.
template <class Team>
__device__ __forceinline__ void send_tiles(const Team& team, int num_tiles, int num_own_tiles) {
  RowWork& w = *team.own;
  const int size = int(team.size), rank = int(team.rank);
  constexpr int kMostBlocks = 16;  // of a cluster
  const int peer = int(threadIdx.x) % kMostBlocks;
  if (peer < size && peer != rank) {
    RowWork* const to = map_shared(&w, uint32_t(peer));
#pragma unroll 1
    for (int i = int(threadIdx.x) / kMostBlocks; i < num_own_tiles;
         i += Team::kThreads / kMostBlocks) {
      const int tile = i * size + rank;
      to->tile_max[tile] = w.tile_max[tile];
      to->tile_mass[tile] = w.tile_mass[tile];
    }
  }
  const int behind = num_tiles + int(threadIdx.x);
  if (behind < padded_tiles(num_tiles)) w.tile_max[behind] = -INFINITY, w.tile_mass[behind] = 0;
}

// Grid: cluster size * rows.
template <int kNumBf16Models>
__device__ __forceinline__ void resident_row(const Plan& plan) {
  RowWork& w = *reinterpret_cast<RowWork*>(dynamic_shared());
  const uint32_t rank = cluster_rank(), size = cluster_size();
  const Team<kResidentThreads, true> team = {&w, map_shared(&w, 0), rank, size};
  const int num_own_tiles = int((uint32_t(plan.num_tiles) + size - 1 - rank) / size);
  const int max_own_tiles = int((uint32_t(plan.num_tiles) + size - 1) / size);
  float* const group_max = reinterpret_cast<float*>(&w + 1);
  float* const own_z = group_max + max_own_tiles * kGroups;
  const int64_t row = plan.first_row + blockIdx.x / size;
  cluster_arrive_unordered();
  clear_row_work<kResidentThreads>(w);
  const bool draws = threadIdx.x == kResidentThreads - 1;
  RowDraw draw;
  if (draws) draw = load_draw(plan, row);
  if (threadIdx.x == 0) {
    w.row = row;
    w.options = options_of(plan, row);
    if (w.options.valid) set_row_inputs(plan, w.options, row, 0, w.inputs);
  }
  __syncthreads();

  const int lane = threadIdx.x % 32;
  for (int i = int(threadIdx.x) / 32; i < num_own_tiles && w.options.valid;
       i += kResidentThreads / 32) {
    const int tile = i * int(size) + int(rank);
    float z[kGroup];
    const bool bad = mix_tile<kNumBf16Models, false>(w.inputs, tile, lane, z);
#pragma unroll
    for (int j = 0; j < kGroup; j += 4) {
      const Bits128 four = {{__float_as_uint(z[j]), __float_as_uint(z[j + 1]),
                             __float_as_uint(z[j + 2]), __float_as_uint(z[j + 3])}};
      float* to = own_z + piece_id(i, j / kPiece, lane) + j % kPiece;
      *reinterpret_cast<Bits128*>(to) = four;
    }
    const TileSummary s = summarise<false>(w.inputs, tile, lane, z, bad, !w.options.greedy);
    group_max[i * kGroups + lane] = s.group_max;
    if (lane == 0) w.tile_max[tile] = s.max, w.tile_mass[tile] = s.mass;
  }
  __syncthreads();
  if (draws) set_up_draw(plan, row, draw, w);
  cluster_wait();  // every block of the cluster runs: their shared memory may be written
  send_tiles(team, plan.num_tiles, num_own_tiles);
  team.sync();
  if (!w.options.valid) {
    if (rank == 0) write_invalid(plan.step, row);
    return;  // all blocks read the same options
  }
  const ResidentSource source = {own_z, group_max, plan.num_tiles, rank, size};
  finish_row(team, source, plan);
  // No block leaves while others may read its shared memory; nothing is written there any more.
  cluster_arrive_unordered();
  cluster_wait();
}

template <int kNumBf16Models>
__global__ void __launch_bounds__(kResidentThreads, 1)
    resident_kernel(const __grid_constant__ Plan plan) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  resident_row<kNumBf16Models>(plan);
#endif
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_RESIDENT_CUH_
