// Conservative re-weighting (numerics.md §7): up-scaling inside the defining model's nucleus,
// the tuned model alone outside.
#ifndef EFT_CPU_CONSERVATIVE_H_
#define EFT_CPU_CONSERVATIVE_H_

#include "cpu/filters.h"
#include "cpu/float_mode.h"
#include "cpu/parallel.h"
#include "cpu/single_model.h"

namespace eft {
namespace {

// ln sum exp(x) from the integer mass of a row with t = x log2(e).
inline double log_normaliser(const Row& row) {
  return kLn2 * ((double(row.reference) - 40.0) + log2_exact_bits(double(total_mass(row))));
}

// Inside S: scale*large + tuned - scale*base + delta; outside: tuned, or excluded.
struct ConservativeMixture {
  const eft_step& step;
  const RowOptions& options;
  int64_t row;
  float* staging;           // [6][1024]
  const float* defining_t;  // [vocab_size], the defining model's own t
  Cutoff nucleus;
  float delta;
  int threads;

  TileReport operator()(int64_t first, int n, float c, float* t, float* group_max) const {
    TileReport report{};
    if (n == kTile && !has_bias_or_bitmask(step) && one_dtype(step)) {
      switch (step.logits[0].dtype) {
        case EFT_BF16: report = mix_ordinary<Bf16>(first, c, t, group_max); break;
        case EFT_FP16: report = mix_ordinary<Fp16>(first, c, t, group_max); break;
        default: report = mix_ordinary<float>(first, c, t, group_max);
      }
    }
    if (report.has_maxima) return report;
    float* const x[3] = {staging, staging + kTile, staging + 2 * kTile};
    for (int k = 0; k < 3; ++k) load_as_fp32(step.logits[k], row, first, n, x[k]);
    const BiasAndMask expanded = expand_bias_and_bitmask(step, row, first, n, staging);
    mix_inside_and_outside(x, expanded, defining_t + first, nucleus.last_kept_tie(first, n), n, t);
    return scale_tile(n, c, t);
  }

 private:
  // A whole tile whose logits exclude nothing and overflow nowhere, as `mix_clean` takes it.
  // Returns `has_maxima` false, and t undefined, for any other tile.
  template <class T>
  TileReport mix_ordinary(int64_t first, float c, float* t, float* group_max) const {
    TileReport report{};
#ifdef EFT_SIMD
    const float limit = 0.5f * ordinary_limit(options.weights, 3, c);
    if (!(fabsf(delta) <= limit)) return report;
    const T* x[3];
    Loader<T> logits[3];
    Lanes w[3];
    for (int k = 0; k < 3; ++k) {
      x[k] = logits_at<T>(step.logits[k], row, first);
      w[k] = splat(options.weights[k]);
    }
    const float* const own = defining_t + first;
    const int last = nucleus.last_kept_tie(first, kTile);
    const bool parted = last >= 0 && last < kTile - 1;  // the cutoff's own tile
    const Lanes cut = splat(last == kTile - 1 || last == kTile ? next_below(nucleus.t) : nucleus.t);
    const Lanes shift = splat(delta), scale = splat(c), excluded = splat(-INFINITY);
    const bool drop = step.conservative_drop != 0;
    Lanes highest = splat(-INFINITY);
    for (int chunk = 0; chunk < kTile; chunk += kChunk) {
      Lanes most = splat(-INFINITY);
      for (int i = chunk; i < chunk + kChunk; i += 16) {
        const Lanes tuned = logits[1](x[1] + i);
        Lanes z = mul(w[0], logits[0](x[0] + i));
        z = multiply_add(w[1], tuned, z);
        z = multiply_add(w[2], logits[2](x[2] + i), z);
        const Lanes mine = load(own + i);
        LaneMask inside = above(mine, cut);
        if (parted) inside = or_(inside, and_(equal(mine, cut), first_lanes(last + 1 - i)));
        z = mul(blend(inside, add(z, shift), drop ? excluded : tuned), scale);
        most = larger(most, z);
        store(t + i, z);
      }
      store(group_max + chunk / kLanes, most);
      highest = larger(highest, most);
    }
    report.max_t = largest(highest);
    report.finite = report.has_maxima = true;
    report.clean = !drop;
    const auto ordinary = magnitude_limit(T{}, limit);
    for (const Loader<T>& x : logits) report.has_maxima &= x.within(ordinary);
#else
    (void)first, (void)c, (void)t, (void)group_max;
#endif
    return report;
  }

  // Locals and masks for the same reasons as in mix_tested.
  void mix_inside_and_outside(float* const* x, const BiasAndMask& expanded, const float* own,
                              int last_id, int n, float* t) const {
    const float *large = x[0], *tuned = x[1], *base = x[2];
    const float *bias = expanded.bias, *forbidden = expanded.forbidden;
    const float w0 = options.weights[0], w1 = options.weights[1], w2 = options.weights[2];
    const float low0 = lowest_of(step.logits[0].dtype), low1 = lowest_of(step.logits[1].dtype);
    const float low2 = lowest_of(step.logits[2].dtype), shift = delta, cut = nucleus.t;
    const uint32_t drop = step.conservative_drop != 0;
#pragma omp simd
    for (int i = 0; i < n; ++i) {
      const uint32_t inside = uint32_t(own[i] > cut) | (uint32_t(own[i] == cut) & (i <= last_id));
      const float mixed = fmaf(w2, base[i], fmaf(w1, tuned[i], w0 * large[i])) + shift;
      const uint32_t in = 0u - inside;
      const float chosen =
          bit_cast<float>((bit_cast<uint32_t>(mixed) & in) | (bit_cast<uint32_t>(tuned[i]) & ~in));
      const uint32_t excluded = uint32_t(large[i] <= low0) | uint32_t(tuned[i] <= low1) |
                                uint32_t(base[i] <= low2) | uint32_t(forbidden[i] < 0.0f) |
                                (drop & (inside ^ 1u));
      const uint32_t out = 0u - excluded;
      const uint32_t bits = bit_cast<uint32_t>(chosen + bias[i]);
      t[i] = bit_cast<float>((bits & ~out) | (0xff800000u & out));
    }
  }
};

// ---- one row shared among threads: sums of integers do not depend on who adds what ----

constexpr int kParts = 16;

inline void fill_row(const ConservativeMixture& mixture, float c, bool masses, Row& row) {
  pad(row);
  const int64_t tiles = num_tiles(row);
  const int64_t parts = mixture.threads == 1 ? 1 : std::min<int64_t>(kParts, tiles);
  RowSummary summary[kParts];
  for_each_part(parts, mixture.threads, [&](int64_t part) {
    const FloatMode mode;
    alignas(64) float staging[6 * kTile];
    ConservativeMixture own = mixture;
    own.staging = staging;
    for (int64_t tile = tiles * part / parts; tile < tiles * (part + 1) / parts; ++tile) {
      const int64_t first = tile * kTile;
      fill_tile(own, c, masses, tile, row.t + first, row.group_max + first / kLanes, row,
                summary[part]);
    }
  });
  for (int64_t part = 1; part < parts; ++part) summary[0].add(summary[part]);
  finish_row(summary[0], row);
}

// The same for a model of which only the masses by tile are needed; t stays in L1.
inline void fill_tiles(const SingleModel& model, float c, bool masses, Row& row) {
  alignas(64) float t[kTile];
  alignas(64) float group_max[kTile / kLanes];
  std::fill(t, t + kTile, -INFINITY);
  RowSummary summary;
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    const int n = tile_length(row.n, tile * kTile);
    std::fill(t + n, t + padded(n), -INFINITY);
    fill_tile(model, c, masses, tile, t, group_max, row, summary);
  }
  finish_row(summary, row);
}

// Finds S and delta. `work` is the defining model's row, whose t the mixture keeps. False where a
// model's row has NaN, +inf or nothing left. The defining model with its nucleus takes about as
// long as the other two together.
inline bool prepare_conservative(ConservativeMixture& mixture, Row& work, Scratch& scratch) {
  const eft_step& step = mixture.step;
  const float c = float(kLog2E);
  const int defining = step.conservative - 1;
  Row others[2] = {scratch.row(0, work.n), scratch.row(2, work.n)};
  Row* rows[3];
  rows[defining] = &work;
  for (int i = 1; i < 3; ++i) rows[(defining + i) % 3] = &others[i - 1];
  double normaliser[3] = {};
  const int64_t shares = mixture.threads == 1 ? 1 : 3;
  for_each_part(shares, mixture.threads, [&](int64_t share) {
    const FloatMode mode;
    for (int64_t i = share; i < 3; i += shares) {
      const int k = int(defining + i) % 3;
      const SingleModel model{step.logits[k], mixture.row};
      const bool normalised = k != 1;  // the tuned model's is not needed
      if (i > 0) {
        fill_tiles(model, c, normalised, *rows[k]);
      } else {
        fill_row(model, c, true, work);
      }
      if (!rows[k]->valid) continue;
      if (normalised) normaliser[k] = log_normaliser(*rows[k]);
      if (i > 0) continue;
      Survivors s{Cutoff{}, scratch.token_list()};
      keep_top_p(work, mixture.options.conservative_top_p, scratch.above(), s, false);
      mixture.nucleus = s.cutoff;
    }
  });
  for (const Row* row : rows) {
    if (!row->valid) return false;
  }
  mixture.delta = float(double(mixture.options.weights[0]) * (normaliser[2] - normaliser[0]));
  mixture.defining_t = work.t;
  return true;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_CONSERVATIVE_H_
