// What a row is before anything is drawn from it: its mixture, and what its filters leave.
#ifndef EFT_CPU_FILTER_H_
#define EFT_CPU_FILTER_H_

#include "cpu/conservative.h"

namespace eft {
namespace {

inline Survivors filter(const RowOptions& o, Row& row, Scratch& scratch) {
  Survivors s{Limit{}, scratch.candidates()};
  if (o.top_k > 0) keep_top_k(row, o.top_k, scratch.values(), s);
  if (o.top_p < kWhole) {
    if (o.top_k > 0) survivor_masses(s, row);
    keep_top_p(row, o.top_p, scratch.sums(), s);
  }
  keep_min_p(row, o.min_p_offset, s);
  return s;
}

inline bool unfiltered(const RowOptions& o) {
  return o.top_k == 0 && o.top_p == kWhole && o.min_p_offset == -INFINITY;
}

// Calls `use` with the row's mixture. False where the row's options or a model's logits are
// invalid.
template <class Use>
bool with_mixture(const eft_step& step, int64_t row, const RowOptions& o, Scratch& scratch,
                  const Use& use) {
  if (!o.valid) return false;
  if (!step.conservative || o.conservative_top_p == kWhole) {
    use(Mixture{step, o, row, scratch.staging()});
    return true;
  }
  ConservativeMixture mixture{step, o, row, scratch.staging(), nullptr, Limit{}, 0.0f};
  Row defining = scratch.row(1, step.vocab_size);
  if (!prepare(mixture, defining, scratch)) return false;
  use(mixture);
  return true;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_FILTER_H_
