// A row's statistics from its sums, a warp for each distribution. The tiles of the largest token
// and of the listed ones are read again.
#ifndef EFT_CUDA_SCORE_WRITE_CUH_
#define EFT_CUDA_SCORE_WRITE_CUH_

#include "cuda/score/list.cuh"
#include "cuda/score/sums.cuh"
#include "cuda/score/tile.cuh"
#include "cuda/score/work.cuh"

namespace eft {
namespace {

// The tile of distribution d, from memory.
__device__ __forceinline__ void load_tile(const ScorePlan& plan, ScoreWork& w, int d, int tile,
                                          int lane, float* x) {
  const WarpTile stage = {w.lists.tiles[d]};
  const RowInputs& inputs = w.inputs;
  if (d == plan.mixture.step.num_models) {
    stage.mixture(inputs, tile, lane, x);
    return;
  }
  stage.model(inputs.models[d], inputs.vocab_size, tile, lane, x);
#pragma unroll
  for (int i = 0; i < kGroup; ++i) x[i] = model_logit(x[i], inputs.models[d].lowest);
}

// log sum exp(x - max) over all but the first largest, `id`, whose tile is `x`. Where that one is
// almost certain the rest of its tile may be lost to underflow: then it is summed once more,
// relative to its own maximum.
__device__ __forceinline__ double log_others(RowSums& s, const TileShare* shares, int num_tiles,
                                             int id, int lane, float* x) {
  if (s.others > kAlmostCertain) return log(s.others);
  const int tile = id / kTile;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) x[i] = token_id(tile, lane, i) == id ? -INFINITY : x[i];
  const float top = largest_of(x);
  const TileShare instead = top > -INFINITY ? share_of(x, top) : empty_share(top);
  const RowSums rest = add_shares(shares, num_tiles, tile, instead);
  const double found = rest.max > -INFINITY ? (rest.max - s.max) + rest.rest() : -INFINITY;
  s.others = exp(found);
  return found;
}

// Lane 0. logit: the target's.
__device__ __forceinline__ void write_sums(const eft_score_stats& stats, const RowSums& s,
                                           double log_others, float logit, int id, int64_t at) {
  const double rest = s.rest(), all = 1 + s.others;
  put(stats.lse, at, s.max + rest);
  put(stats.logprobs, at, (double(logit) - s.max) - rest);
  put(stats.entropy, at, rest - s.weighted / all);
  put(stats.max_prob, at, s.max_prob());
  put(stats.log1m_max, at, log_others - rest);
  put(stats.sum_squares, at, (1 + s.squares) / (all * all));
  put(stats.argmax, at, id);
  put(stats.rank, at, s.before);
}

// The whole warp. `opaque_ptr`: addresses are computed again in each round, since
// nothing is short but registers.
__device__ __forceinline__ void write_distribution(const ScorePlan& plan, int slot, int d,
                                                   ScoreWork& work) {
  const eft_score_stats& stats = plan.stats;
  const int lane = int(threadIdx.x % 32), num_tiles = plan.mixture.num_tiles;
  const int count = plan.mixture.step.num_models + 1;
  const TileShare* shares = plan.space.shares + (int64_t(slot) * count + d) * num_tiles;
  TileWalk{work.lists.bounds[d], num_tiles}.start(
      -INFINITY, [&](int tile) { return load_written(&shares[tile].max); });
  int listed = 0;
#pragma unroll 1
  for (int round = 0; round == 0 || round < stats.num_top; ++round) {
    ScoreWork& w = *opaque_ptr(&work);
    const TileWalk walk = {w.lists.bounds[d], num_tiles};
    const uint64_t bound = walk.lowest();
    if (bound == kNoKey) break;
    const int tile = int(key_id(bound) / kTile);
    float x[kGroup];
    load_tile(plan, w, d, tile, lane, x);
    TwoLowest two(bound);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) two.add(x[i], -INFINITY, uint32_t(token_id(tile, lane, i)));
    two.join();
    walk.raise(tile, two.second);
    const int64_t at = w.row * count + d;
    if (round == 0) {
      RowSums s = w.sums[d];
      const double others = log_others(s, shares, num_tiles, int(key_id(two.first)), lane, x);
      __syncwarp();  // all lanes have read their sums
      if (lane == 0) {
        w.sums[d].others = s.others;
        write_sums(stats, s, others, w.target_logits[d], int(key_id(two.first)), at);
      }
    }
    if (stats.num_top == 0) break;
    if (lane == 0) {
      const RowSums& s = w.sums[d];
      stats.top_ids[at * stats.num_top + listed] = int64_t(key_id(two.first));
      stats.top_logprobs[at * stats.num_top + listed] =
          float((double(key_t(two.first)) - s.max) - s.rest());
    }
    ++listed;
  }
  const int64_t first = (work.row * count + d) * stats.num_top;
  for (int i = listed + lane; i < stats.num_top; i += 32) {
    stats.top_ids[first + i] = -1;
    stats.top_logprobs[first + i] = -INFINITY;
  }
}

__device__ __forceinline__ Pair pair_of(const RowSums& p, const RowSums& q) {
  Pair pair;
  pair.max_p = float(p.max);
  pair.max_q = float(q.max);
  pair.scale_p = float(p.max_prob());
  pair.scale_q = float(q.max_prob());
  pair.rest_p = p.rest();
  pair.rest_q = q.rest();
  pair.log_scales = log(double(pair.scale_p)) - log(double(pair.scale_q));
  pair.valid = 1;
  return pair;
}

// The whole block; w.sums are those of a valid row.
__device__ __forceinline__ void write_row(const ScorePlan& plan, int slot, ScoreWork& w) {
  const int num_models = plan.mixture.step.num_models, warp = int(threadIdx.x / 32);
  if (warp <= num_models) write_distribution(plan, slot, warp, w);
  if (threadIdx.x == 0) put(plan.stats.status, w.row, 0);
  if (!plan.compares) return;
  __syncthreads();
  if (threadIdx.x == 0) plan.space.pairs[slot] = pair_of(w.sums[num_models], w.sums[plan.compared]);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_SCORE_WRITE_CUH_
