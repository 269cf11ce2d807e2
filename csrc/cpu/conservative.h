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

  bool operator()(int64_t first, int n, float c, float* t) const {
    const float* x[3];
    float lowest[3];
    for (int k = 0; k < 3; ++k) {
      stage(step.logits[k], row, first, n, staging + k * kTile);
      x[k] = staging + k * kTile;
      lowest[k] = lowest_of(step.logits[k].dtype);
    }
    const Extras extras = stage_extras(step, row, first, n, staging);
    const float* w = options.weights;
    const bool drop = step.conservative_drop != 0;
    for (int i = 0; i < n; ++i) {
      const bool inside = keeps(nucleus, defining_t[first + i], uint32_t(first + i));
      const float mixed = fmaf(w[2], x[2][i], fmaf(w[1], x[1][i], w[0] * x[0][i])) + delta;
      const float z = (inside ? mixed : x[1][i]) + extras.bias[i];
      const bool excluded = x[0][i] <= lowest[0] || x[1][i] <= lowest[1] || x[2][i] <= lowest[2];
      t[i] = excluded || extras.forbidden[i] < 0.0f || (drop && !inside) ? -INFINITY : z;
    }
    return scale_tile(n, c, t);
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
  Survivors s{Limit{}, scratch.candidates()};
  keep_top_p(work, mixture.options.conservative_top_p, scratch.sums(), s);
  mixture.defining_t = work.t;
  mixture.nucleus = s.limit;
  return true;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_CONSERVATIVE_H_
