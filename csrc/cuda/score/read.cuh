// The first read: a tile's share of each model, one after the other while z accumulates, then of
// the mixture. The block that takes a row's last ticket finishes the row.
#ifndef EFT_CUDA_SCORE_READ_CUH_
#define EFT_CUDA_SCORE_READ_CUH_

#include "cuda/common/bitmask.cuh"
#include "cuda/score/sums.cuh"
#include "cuda/score/tile.cuh"
#include "cuda/score/work.cuh"
#include "cuda/score/write.cuh"

namespace eft {
namespace {

// 32 tokens of a bf16 model whose row lies on a 16-byte boundary.
__device__ __forceinline__ void load_bf16_group(const Model& model, int tile, int lane,
                                                Bits128* raw) {
  const char* first = model.logits + 2 * int64_t(piece_id(tile, 0, lane));
#pragma unroll
  for (int j = 0; j < 4; ++j) raw[j] = load_once(first + 2 * j * (kTile / 4));
}

// True if none of a warp's 1024 logits needs a test (`RowInputs::square_limit`).
__device__ __forceinline__ bool is_ordinary(const Bits128* raw, float limit) {
  float largest = 0.0f;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint32_t squares = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) squares = add_squares(squares, raw[j].x[i]);
    largest += bf16_low(squares) + bf16_high(squares);
  }
  return __all_sync(0xffffffffu, largest <= limit);
}

// Bit i is set where the bitmask excludes token i of the lane's 32.
__device__ __forceinline__ uint32_t excluded_in_group(const RowInputs& inputs, int tile) {
  const int lane = int(thread_index() % 32);
  uint32_t excluded = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int first = piece_id(tile, j, lane);
    if (first >= inputs.vocab_size) continue;
    excluded |= (~load_bitmask(inputs, first) & 0xffu) << j * kPiece;
  }
  return excluded;
}

// Excluded tokens become -inf; true if another one has NaN or +inf.
__device__ __forceinline__ bool exclude(uint32_t excluded, float* z) {
  bool bad = false;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    const bool out = excluded >> i & 1;
    bad |= !out && !(z[i] < INFINITY);
    z[i] = out ? -INFINITY : z[i];
  }
  return bad;
}

// A warp's tile, into shares[d * num_tiles].
__device__ __forceinline__ void read_tile(const ScorePlan& plan, ScoreWork& w, int tile, int lane,
                                          TileShare* shares) {
  const RowInputs& inputs = w.inputs;
  const int num_models = plan.mixture.step.num_models;
  const WarpTile stage = {w.tiles[thread_index() / 32]};
  const bool all_bf16 = inputs.all_bf16 && (tile + 1) * kTile <= inputs.vocab_size;
  const bool staged = inputs.conservative || has_special(inputs, tile);
  bool tested = !all_bf16, bad = false;
  uint32_t excluded = 0;
  float z[kGroup];
  Bits128 raw[4];
#pragma unroll
  for (int i = 0; i < kGroup; ++i) z[i] = -0.0f;  // adds nothing, not even a sign
  if (all_bf16) load_bf16_group(inputs.models[0], tile, lane, raw);
  if (staged) bad = stage.mixture(inputs, tile, lane, z);
#pragma unroll 1
  for (int k = 0; k <= inputs.num_terms; ++k) {
    float v[kGroup];
    if (k < inputs.num_terms) {
      const Model& model = inputs.models[k];
      if (all_bf16) {
        tested |= !is_ordinary(raw, inputs.square_limit);
#pragma unroll
        for (int j = 0; j < 4; ++j) widen_bf16(raw[j].x, v + j * kPiece);
        if (k + 1 < inputs.num_terms) load_bf16_group(inputs.models[k + 1], tile, lane, raw);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) raw[j] = {};  // or it would hold registers here too
        stage.model(model, inputs.vocab_size, tile, lane, v);
      }
      if (!staged) {
#pragma unroll
        for (int i = 0; i < kGroup; ++i) z[i] = fmaf(model.weight, v[i], z[i]);
      }
      if (tested) {
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          excluded |= uint32_t(v[i] <= model.lowest) << i;
          v[i] = model_logit(v[i], model.lowest);
        }
      }
      if (k >= num_models) continue;  // the bias
    } else {
      if (inputs.token_bitmask) excluded |= excluded_in_group(inputs, tile);
      if (tested && !staged) bad = exclude(excluded, z);
#pragma unroll
      for (int i = 0; i < kGroup; ++i) v[i] = z[i];
    }
    const int d = k < num_models ? k : num_models;
    const float top = largest_of(v);
    TileShare share = empty_share(top);
    if (k == inputs.num_terms && __any_sync(0xffffffffu, bad)) {
      share.max = NAN;
    } else if (top > -INFINITY) {
      share = share_of(v, top);
    }
    if (plan.stats.rank) {
      share.before = count_before(v, tile, lane, w.target_logits[d], int(w.target));
    }
    if (lane == 0) shares[int64_t(d) * plan.mixture.num_tiles] = share;
  }
}

// Thread d: the target's logit in distribution d.
__device__ __forceinline__ float logit_of_target(const ScorePlan& plan, const ScoreWork& w, int d) {
  const RowInputs& inputs = w.inputs;
  const int target = int(w.target), in_piece = target % kPiece;
  float v[kPiece], found = 0.0f;
  if (d < plan.mixture.step.num_models) {
    load_model<1>(inputs.models[d], inputs.vocab_size, target - in_piece, v);
  } else {
    mix_pieces<1, true>(inputs, target - in_piece, 0, v);
  }
#pragma unroll
  for (int i = 0; i < kPiece; ++i) found = i == in_piece ? v[i] : found;
  return found;
}

// Grid: (blocks a row, rows). True for all threads of the block that finishes the row.
__device__ __forceinline__ bool read_row(const ScorePlan& plan, int slot, ScoreWork& w) {
  const int num_models = plan.mixture.step.num_models, num_tiles = plan.mixture.num_tiles;
  const int warp = int(threadIdx.x / 32), lane = int(threadIdx.x % 32);
  if (int(threadIdx.x) <= num_models) {
    w.target_logits[threadIdx.x] = logit_of_target(plan, w, int(threadIdx.x));
  }
  __syncthreads();
  TileShare* shares = plan.space.shares + int64_t(slot) * (num_models + 1) * num_tiles;
  for (int tile = warp * int(gridDim.x) + int(blockIdx.x); tile < num_tiles;
       tile += opaque_ptr(&w)->stride) {
    read_tile(plan, *opaque_ptr(&w), tile, int(thread_index() % 32), shares + tile);
  }
  if (!takes_last_score_ticket(plan.mixture.workspace.tickets + slot, w.is_last)) return false;
  if (warp <= num_models) {
    const TileShare* of_warp = shares + int64_t(warp) * num_tiles;
    const RowSums s = add_shares(of_warp, num_tiles, -1, empty_share(0.0f));
    if (lane == 0) {
      w.sums[warp] = s;
      if (warp == num_models && !(fabs(s.max) < INFINITY)) w.status = 1;
    }
  }
  __syncthreads();
  return true;
}

__device__ __forceinline__ void score_row(const ScorePlan& plan) {
  ScoreWork& w = *reinterpret_cast<ScoreWork*>(dynamic_shared());
  const int slot = int(blockIdx.y);
  if (threadIdx.x == 0) set_up_score_row(plan, slot, plan.mixture.first_row + slot, w);
  __syncthreads();
  if (w.status == 0) {
    if (!read_row(plan, slot, w)) return;
  } else if (blockIdx.x != 0) {
    return;
  }
  if (w.status) {
    if (plan.compares && threadIdx.x == 0) plan.space.pairs[slot].valid = 0;
    return write_blank(plan, w);
  }
  write_row(plan, slot, w);
}

__global__ void __launch_bounds__(kScoreThreads, 2)
    score_kernel(const __grid_constant__ ScorePlan plan) {
  score_row(plan);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_SCORE_READ_CUH_
