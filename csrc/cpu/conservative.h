// Conservative re-weighting: up-scaling inside the defining model's nucleus, the tuned model alone
// outside.
#ifndef EFT_CPU_CONSERVATIVE_H_
#define EFT_CPU_CONSERVATIVE_H_

#include "cpu/draw.h"
#include "cpu/mix.h"

namespace eft {
namespace {

// ln sum exp of the row whose t were scaled by log2(e), from its integer mass.
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
  Limit nucleus;
  float delta;

  TileKind operator()(int64_t first, int n, float c, float* t, float*) const {
    float* const x[3] = {staging, staging + kTile, staging + 2 * kTile};
    for (int k = 0; k < 3; ++k) stage(step.logits[k], row, first, n, x[k]);
    const Extras extras = stage_extras(step, row, first, n, staging);
    mix_inside_and_outside(x, extras, defining_t + first, nucleus.ids_within(first, n), n, t);
    return scale_tile(n, c, t);
  }

 private:
  // Locals and masks for the same reasons as in mix_tested.
  void mix_inside_and_outside(float* const* x, const Extras& extras, const float* own, int last_id,
                              int n, float* t) const {
    const float *large = x[0], *tuned = x[1], *base = x[2];
    const float *bias = extras.bias, *forbidden = extras.forbidden;
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

// Finds S and delta. `work` holds one model after another and at last the defining one, whose t it
// keeps. False where a model's row has NaN, +inf or nothing left.
inline bool prepare(ConservativeMixture& mixture, Row& work, Scratch& scratch) {
  const float c = float(kLog2E);
  const int defining = mixture.step.conservative - 1;
  double normaliser[3] = {};
  for (int i = 1; i <= 3; ++i) {
    const int k = (defining + i) % 3;
    fill_row(OneModel{mixture.step.logits[k], mixture.row}, c, true, work);
    if (!work.valid) return false;
    normaliser[k] = log_normaliser(work);
  }
  mixture.delta = float(double(mixture.options.weights[0]) * (normaliser[2] - normaliser[0]));
  Survivors s{Limit{}, scratch.picked()};
  keep_top_p(work, mixture.options.conservative_top_p, scratch.above(), s);
  mixture.defining_t = work.t;
  mixture.nucleus = s.limit;
  return true;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_CONSERVATIVE_H_
