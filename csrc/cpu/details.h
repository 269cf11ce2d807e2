// The fields of eft_details (numerics.md §10): log-probabilities, entropy and the first of the
// rank, at temperature 1.
#ifndef EFT_CPU_DETAILS_H_
#define EFT_CPU_DETAILS_H_

#include "cpu/conservative.h"

namespace eft {
namespace {

// exp(x) for x <= 0 by the mass polynomial; relative error below 3e-7 for x > -60.
inline float exp_nonpositive(float x) {
  const float t = x * float(kLog2E);
  const float n = floorf(t);
  const bool tiny = !(n > -126.0f);
  const float p = exp2_fraction(tiny ? 0.0f : t - n);
  return tiny ? 0.0f : p * bit_cast<float>(uint32_t(int32_t(n) + 127) << 23);
}

// Normaliser and entropy, in nats, of a row of unscaled logits. The normaliser is kept in two parts
// because logits may be far larger than their differences.
struct Normaliser {
  double max;
  double log_relative;  // log sum exp(z - max)
  double entropy;

  float logprob(float z) const { return float((double(z) - max) - log_relative); }
};

inline Normaliser normalise(const Row& z) {
  double sum = 0, weighted = 0;
  for (int64_t tile = 0; tile < num_tiles(z); ++tile) {
    if (!(z.tile_max[tile] - z.max_t > -60.0f)) continue;
    const int64_t first = tile * kTile;
    const int n = tile_length(z.n, first);
    float s = 0, w = 0;
#pragma omp simd reduction(+ : s, w)
    for (int i = 0; i < n; ++i) {
      const float d = z.t[first + i] - z.max_t;
      const float e = exp_nonpositive(d);
      s += e;
      w += e > 0.0f ? e * d : 0.0f;
    }
    sum += s;
    weighted += w;
  }
  const double log_relative = ::log(sum);
  return {double(z.max_t), log_relative, log_relative - weighted / sum};
}

inline void write_top(Row& z, const Normaliser& norm, int num_top, Scratch& scratch, int64_t* ids,
                      float* logprobs) {
  Survivors s{Cutoff{}, scratch.token_list()};
  keep_top_k(z, num_top, scratch.maxima(), nullptr, s);
  if (!s.listed) list_between(z, -INFINITY, INFINITY, s.tokens);
  const int count = int(std::min<int64_t>(num_top, s.tokens.count));
  uint32_t* id = s.tokens.id;
  std::partial_sort(id, id + count, id + s.tokens.count, [&](uint32_t a, uint32_t b) {
    return z.t[a] > z.t[b] || (z.t[a] == z.t[b] && a < b);
  });
  for (int i = 0; i < num_top; ++i) {
    ids[i] = i < count ? int64_t(id[i]) : -1;
    logprobs[i] = i < count ? norm.logprob(z.t[id[i]]) : -INFINITY;
  }
}

inline int64_t count_kept(const Row& row, const Survivors& s) {
  if (s.listed) return s.tokens.count;
  int64_t count = 0;
  for (int64_t i = 0; i < row.n; ++i) count += keeps(s.cutoff, row.t[i], uint32_t(i));
  return count;
}

inline void invalid_details(const eft_step& step, int64_t row) {
  const eft_details& d = step.details;
  if (d.logprobs) d.logprobs[row] = NAN;
  if (d.raw_logprobs) d.raw_logprobs[row] = NAN;
  if (d.entropy) d.entropy[row] = NAN;
  if (d.num_kept) d.num_kept[row] = 0;
  if (d.status) d.status[row] = 1;
  for (int k = 0; d.model_logprobs && k < step.num_models; ++k)
    d.model_logprobs[row * step.num_models + k] = NAN;
  for (int i = 0; i < d.num_top; ++i) {
    if (d.top_ids) d.top_ids[row * d.num_top + i] = -1;
    if (d.top_logprobs) d.top_logprobs[row * d.num_top + i] = NAN;
  }
}

// Writes all fields that are at temperature 1; `work` is overwritten.
template <class Mixer>
void temperature_one_details(const eft_step& step, int64_t row, const Mixer& mixture, int64_t token,
                             Row& work, Scratch& scratch) {
  const eft_details& d = step.details;
  fill_row(mixture, 1.0f, false, work);
  const Normaliser norm = normalise(work);
  if (d.raw_logprobs) d.raw_logprobs[row] = norm.logprob(work.t[token]);
  if (d.entropy) d.entropy[row] = float(norm.entropy);
  if (d.num_top) {
    const int64_t at = row * d.num_top;
    write_top(work, norm, d.num_top, scratch, d.top_ids + at, d.top_logprobs + at);
  }
  for (int k = 0; d.model_logprobs && k < step.num_models; ++k) {
    fill_row(SingleModelFinite{step.logits[k], row}, 1.0f, false, work);
    d.model_logprobs[row * step.num_models + k] = normalise(work).logprob(work.t[token]);
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_DETAILS_H_
