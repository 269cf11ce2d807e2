// The second read compares the mixture with one model, now that their normalisers are known.
#ifndef EFT_CUDA_SCORE_COMPARE_CUH_
#define EFT_CUDA_SCORE_COMPARE_CUH_

#include "cuda/score/list.cuh"
#include "cuda/score/tile.cuh"
#include "cuda/score/work.cuh"

namespace eft {
namespace {

// 16 of a lane's tokens of both distributions.
__device__ __forceinline__ void load_both(const ScorePlan& plan, const RowInputs& inputs, int id,
                                          float* p, float* q) {
  mix_pieces<2, true>(inputs, id, kTile / 4, p);
  load_model<2>(inputs.models[plan.compared], inputs.vocab_size, id, q);
}

// p - q of one token whose logits are zp and zq.
__device__ __forceinline__ float gain_of(const Pair& pair, float zp, float zq, float& p) {
  p = exp_or_zero(zp - pair.max_p) * pair.scale_p;
  return p - exp_or_zero(zq - pair.max_q) * pair.scale_q;
}

// A warp's tile. KL as the sum of p log(p/q) - p + q: each term is non-negative, and a relative
// error of a normaliser cancels to first order.
__device__ __forceinline__ TileChange compare_tile(const ScorePlan& plan, const ScoreWork& w,
                                                   int tile, int lane) {
  const Pair& pair = w.pair;
  const float log_scales = float(pair.log_scales);
  TileChange found = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    float zp[kHalf], zq[kHalf];
    load_both(plan, w.inputs, half_id(tile, half, lane), zp, zq);
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      float p;
      const float gain = gain_of(pair, zp[i], zq[i], p);
      const float ratio = ((zp[i] - pair.max_p) - (zq[i] - pair.max_q)) + log_scales;
      found.absolute += fabsf(gain);
      found.divergence += (p > 0.0f ? p * ratio : 0.0f) - gain;
      found.up = fmaxf(found.up, gain);
      found.down = fmaxf(found.down, -gain);
    }
  }
  return {warp_add(found.absolute), warp_add(found.divergence), warp_max(found.up),
          warp_max(found.down)};
}

// Warp 0 lists what gained, warp 1 what lost: sign * (p - q), largest first.
__device__ __forceinline__ void list_changes(const ScorePlan& plan, ScoreWork& w,
                                             const TileChange* changes, int which) {
  const int lane = int(threadIdx.x % 32), count = plan.stats.num_changed;
  const float sign = which ? -1.0f : 1.0f;
  int64_t* ids = (which ? plan.stats.down_ids : plan.stats.up_ids) + w.row * count;
  float* ratios = (which ? plan.stats.down_log_ratios : plan.stats.up_log_ratios) + w.row * count;
  const TileWalk walk = {w.lists.bounds[which], plan.mixture.num_tiles};
  walk.start(0.0f, [&](int tile) {
    return load_written(which ? &changes[tile].down : &changes[tile].up);
  });
  int listed = 0;
#pragma unroll 1
  for (; listed < count; ++listed) {
    const uint64_t bound = walk.lowest();
    if (bound == kNoKey) break;
    const int tile = int(key_id(bound) / kTile);
    TwoLowest two(bound);
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      float zp[kHalf], zq[kHalf], p;
      load_both(plan, w.inputs, half_id(tile, half, lane), zp, zq);
#pragma unroll
      for (int i = 0; i < kHalf; ++i) {
        const uint32_t id = uint32_t(token_id(tile, lane, half * kHalf + i));
        two.add(sign * gain_of(w.pair, zp[i], zq[i], p), 0.0f, id);
      }
    }
    two.join();
    if (lane == listed % 32) ids[listed] = int64_t(key_id(two.first));
    walk.raise(tile, two.second);
  }
  // Lane l has written every 32nd id, and finds it again.
#pragma unroll 1
  for (int i = lane; i < count; i += 32) {
    if (i >= listed) {
      ids[i] = -1;
      ratios[i] = 0.0f;
      continue;
    }
    const int id = int(ids[i]), in_piece = id % kPiece;
    float zp[kPiece], zq[kPiece], p = 0.0f, q = 0.0f;
    mix_pieces<1, true>(w.inputs, id - in_piece, 0, zp);
    load_model<1>(w.inputs.models[plan.compared], w.inputs.vocab_size, id - in_piece, zq);
#pragma unroll
    for (int j = 0; j < kPiece; ++j) p = j == in_piece ? zp[j] : p, q = j == in_piece ? zq[j] : q;
    const double log_p = (double(p) - double(w.pair.max_p)) - w.pair.rest_p;
    ratios[i] = float(log_p - ((double(q) - double(w.pair.max_q)) - w.pair.rest_q));
  }
}

// One warp: the distances of the whole row.
__device__ __forceinline__ void write_distances(const ScorePlan& plan, const ScoreWork& w,
                                                const TileChange* changes) {
  const int lane = int(threadIdx.x % 32);
  double absolute = 0, divergence = 0;
  for (int i = lane; i < plan.mixture.num_tiles; i += 32) {
    absolute += double(load_written(&changes[i].absolute));
    divergence += double(load_written(&changes[i].divergence));
  }
  absolute = warp_add(absolute);
  divergence = warp_add(divergence);
  if (lane) return;
  const double rounded = w.pair.log_scales - double(float(w.pair.log_scales));
  put(plan.stats.tv, w.row, fmin(1.0, 0.5 * absolute));
  put(plan.stats.kl, w.row, fmax(0.0, divergence + rounded));
}

__device__ __forceinline__ void compare_row(const ScorePlan& plan) {
  ScoreWork& w = *reinterpret_cast<ScoreWork*>(dynamic_shared());
  const int slot = int(blockIdx.y), warp = int(threadIdx.x / 32), lane = int(threadIdx.x % 32);
  if (threadIdx.x == 0) {
    w.pair.valid = plan.space.pairs[slot].valid;
    if (w.pair.valid) {
      w.pair = plan.space.pairs[slot];
      set_up_score_row(plan, slot, plan.mixture.first_row + slot, w);
    }
  }
  __syncthreads();
  if (!w.pair.valid) return;
  const int num_tiles = plan.mixture.num_tiles;
  TileChange* changes = plan.space.changes + int64_t(slot) * num_tiles;
  for (int tile = warp * int(gridDim.x) + int(blockIdx.x); tile < num_tiles; tile += w.stride) {
    const TileChange found = compare_tile(plan, w, tile, lane);
    if (lane == 0) changes[tile] = found;
  }
  if (!takes_last_score_ticket(plan.mixture.workspace.tickets + slot, w.is_last)) return;
  if (warp < 2 && plan.stats.num_changed) list_changes(plan, w, changes, warp);
  if (warp == 2) write_distances(plan, w, changes);
}

__global__ void __launch_bounds__(kScoreThreads, 2)
    compare_kernel(const __grid_constant__ ScorePlan plan) {
  compare_row(plan);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_SCORE_COMPARE_CUH_
