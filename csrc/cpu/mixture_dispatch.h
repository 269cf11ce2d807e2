// Chooses a row's mixture: fixed weights (mix.h) or conservative re-weighting (conservative.h),
// with or without special tokens (special_tokens.h).
#ifndef EFT_CPU_MIXTURE_DISPATCH_H_
#define EFT_CPU_MIXTURE_DISPATCH_H_

#include "cpu/special_row.h"

namespace eft {
namespace {

template <class Mixer, class Use>
void use_mixture(const Mixer& mixture, const Use& use) {
  if (mixture.step.special.tiles) {
    use(SpecialMixture<Mixer>(mixture));
  } else {
    use(mixture);
  }
}

// Calls `use` with the row's mixture. False where the row's options, or the logits of a model that
// re-weighting needs, are invalid.
template <class Use>
bool dispatch_mixture(const eft_step& step, int64_t row, const RowOptions& o, Scratch& scratch,
                      const Use& use) {
  if (!o.valid) return false;
  if (!step.conservative || o.conservative_top_p == kWhole) {
    use_mixture(Mixture{step, o, row, scratch.staging()}, use);
    return true;
  }
  ConservativeMixture mixture{step,    o,        row,  scratch.staging(),
                              nullptr, Cutoff{}, 0.0f, scratch.threads};
  Row defining = scratch.row(1, step.vocab_size);
  if (!prepare_conservative(mixture, defining, scratch)) return false;
  use_mixture(mixture, use);
  return true;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_MIXTURE_DISPATCH_H_
