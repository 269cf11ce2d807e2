// The details that `return_details` adds, at temperature 1 (numerics.md §10):
// log-probabilities and entropy. Each tile's share of the sums is taken while the tile is in
// registers. The first of the rank are a launch of their own (top_ids.cuh).
//
// tile_stats             a warp's tile         → stats[tile]
// write_temperature_one  stats, token          → raw_logprobs, entropy, model_logprobs
#ifndef EFT_CUDA_STEP_DETAILS_CUH_
#define EFT_CUDA_STEP_DETAILS_CUH_

#include "common/log2.h"
#include "cuda/common/mix.cuh"
#include "cuda/step/source.cuh"

namespace eft {
namespace {

// exp(x) for x <= 0 by the mass polynomial; relative error below 3e-7 where it matters (x > -60).
__device__ __forceinline__ float exp_nonpositive(float x) {
  const float t = x * float(kLog2E);
  const float n = floorf(t);
  const bool tiny = !(n > -126.0f);
  const float p = exp2_fraction(tiny ? 0.0f : t - n);
  return tiny ? 0.0f : p * __uint_as_float(uint32_t(int32_t(n) + 127) << 23);
}

// A warp's tile: the mixture's sum and weighted sum of exp(z - max), each model's max and sum. The
// models' logits are read again, from the cache that holds them now.
__device__ __forceinline__ void tile_stats(const RowInputs& inputs, const eft_step& step, int tile,
                                           int lane, const float* z, float max_z, float* stats) {
  float sum = 0.0f, weighted = 0.0f;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    const float x = z[i] - max_z;
    const float e = max_z > -INFINITY ? exp_nonpositive(x) : 0.0f;
    sum += e;
    weighted += e > 0.0f ? e * x : 0.0f;
  }
  sum = warp_add(sum);
  weighted = warp_add(weighted);
  if (lane == 0) stats[0] = sum, stats[1] = weighted;
  if (!step.details.model_logprobs) return;
#pragma unroll 1
  for (int k = 0; k < step.num_models; ++k) {
    const Model model = inputs.models[k];
    float largest = -INFINITY, sum_of_model = 0.0f;
#pragma unroll 1
    for (int j = 0; j < 4; ++j) {
      float v[kPiece], x = largest;
      widen(load_piece(model.logits, model.dtype, piece_id(tile, j, lane), inputs.vocab_size),
            model.dtype, v);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        v[i] = model_logit(v[i], model.lowest);
        x = fmaxf(x, v[i]);
      }
      if (!(x > -INFINITY)) continue;
      sum_of_model *= exp_nonpositive(largest - x);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) sum_of_model += exp_nonpositive(v[i] - x);
      largest = x;
    }
    const float max = warp_max(largest);
    sum_of_model = warp_add(max > -INFINITY ? sum_of_model * exp_nonpositive(largest - max) : 0.0f);
    if (lane == 0) stats[2 + 2 * k] = max, stats[3 + 2 * k] = sum_of_model;
  }
}

__device__ __forceinline__ void write_invalid(const eft_step& step, int64_t row) {
  const eft_details& d = step.details;
  if (thread_index() == 0) {
    step.tokens[row] = -1;
    if (d.logprobs) d.logprobs[row] = NAN;
    if (d.raw_logprobs) d.raw_logprobs[row] = NAN;
    if (d.entropy) d.entropy[row] = NAN;
    if (d.num_kept) d.num_kept[row] = 0;
    if (d.status) d.status[row] = 1;
    for (int k = 0; d.model_logprobs && k < step.num_models; ++k) {
      d.model_logprobs[row * step.num_models + k] = NAN;
    }
  }
  for (int i = thread_index(); i < d.num_top; i += blockDim.x) {
    d.top_ids[row * d.num_top + i] = -1;
    d.top_logprobs[row * d.num_top + i] = NAN;
  }
}

// Normalisers of the mixture (0) and the models (1 + k), into w.maxima and w.log_sums. One warp
// each adds the tiles' shares.
template <class Team>
__device__ __forceinline__ void normalise(const Team& team, const Plan& plan, const float* stats,
                                          float max_z) {
  RowWork& w = *team.own;
  const int lane = thread_index() % 32;
  const int count = plan.step.details.model_logprobs ? plan.step.num_models + 1 : 1;
  for (int s = int(thread_index()) / 32; s < count; s += Team::kThreads / 32) {
    float max = max_z;
    if (s) {
      max = -INFINITY;
      for (int i = lane; i < plan.num_tiles; i += 32) {
        max = fmaxf(max, load_written(stats + i * kMaxStats + 2 * s));
      }
      max = warp_max(max);
    }
    double sum = 0, weighted = 0;
    for (int i = lane; i < plan.num_tiles; i += 32) {
      const float* share = stats + i * kMaxStats + 2 * s;
      const float tile_max = s ? load_written(share) : w.tile_max[i];
      const float below = tile_max - max;
      if (!(below > -60.0f)) continue;
      const double scale = double(exp_nonpositive(below));
      const double tile_sum = double(load_written(share + (s ? 1 : 0)));
      sum += scale * tile_sum;
      if (!s) weighted += scale * (double(load_written(share + 1)) + double(below) * tile_sum);
    }
    sum = warp_add(sum);
    weighted = warp_add(weighted);
    if (lane) continue;
    w.maxima[s] = double(max);
    w.log_sums[s] = kLn2 * log2_exact_bits(sum);
    if (!s) w.entropy = w.log_sums[0] - weighted / sum;
  }
  __syncthreads();
}

// The row's token, w.token, at temperature 1. The whole block.
template <class Team, class Source>
__device__ __forceinline__ void write_temperature_one(const Team& team, const Source& source,
                                                      const Plan& plan, float max_z) {
  const eft_step& step = plan.step;
  const eft_details& d = step.details;
  const RowWork& w = *team.own;
  const int token = w.token;
  normalise(team, plan, source.stats(), max_z);
  const int k = int(thread_index()) - 1;
  if (thread_index() == 0) {
    const double z = double(z_of_token(source, token));
    if (d.raw_logprobs) d.raw_logprobs[w.row] = float((z - w.maxima[0]) - w.log_sums[0]);
    if (d.entropy) d.entropy[w.row] = float(w.entropy);
  } else if (k < step.num_models && d.model_logprobs) {
    const Model model = w.inputs.models[k];
    const float x = model_logit(load_token(model.logits, model.dtype, token), model.lowest);
    d.model_logprobs[w.row * step.num_models + k] =
        float((double(x) - w.maxima[1 + k]) - w.log_sums[1 + k]);
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_DETAILS_CUH_
