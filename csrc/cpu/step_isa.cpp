// One row of the step on the CPU. Compiled three times with different instruction sets; EFT_ISA
// names the copy. The hot loops use simd.h, the others are left to the compiler's vectoriser. No
// operation may be fused or reordered (-ffp-contract=off, no -ffast-math), so all copies draw the
// same tokens.
#include "cpu/step_isa.h"

#include "cpu/details.h"
#include "cpu/draw.h"
#include "cpu/filters.h"
#include "cpu/mixture_dispatch.h"
#include "cpu/verify.h"

namespace eft {
namespace {

bool wants_temperature_one(const eft_details& d) {
  return d.raw_logprobs || d.entropy || d.model_logprobs || d.num_top;
}

template <class Mixer>
void sample_row(const eft_step& step, int64_t row, const RowOptions& o, const Mixer& mixture,
                Scratch& scratch) {
  Row work = scratch.row(0, step.vocab_size);
  const eft_details& d = step.details;
  if (o.greedy && !wants_temperature_one(d)) be_lazy(mixture);
  fill_row(mixture, o.scale, !o.greedy, work);
  if (!work.valid) {
    step.tokens[row] = -1;
    return invalid_details(step, row);
  }
  int64_t token;
  float logprob = 0.0f;
  int64_t num_kept = 1;
  if (o.greedy) {
    token = first_max(work);
  } else {
    const Survivors s = filter(o, work, scratch);
    if (!unfiltered(o)) survivor_masses(s, work);
    const uint64_t mass = total_mass(work);
    token = draw(work, s.cutoff, mass, random_bits(o.seed, o.position, 0, kSample));
    if (d.logprobs) {
      const double log2_mass = ::log2(double(mass)) - 40.0;
      // The mass is within 1.5e-7 of 2^t: a token that is alone must not come out above 0.
      logprob =
          std::min(0.0f, float(kLn2 * ((double(work.t[token]) - work.reference) - log2_mass)));
    }
    if (d.num_kept) num_kept = count_kept(work, s);
  }
  step.tokens[row] = token;
  if (d.logprobs) d.logprobs[row] = logprob;
  if (d.num_kept) d.num_kept[row] = int32_t(num_kept);
  if (d.status) d.status[row] = 0;
  if (wants_temperature_one(d)) temperature_one_details(step, row, mixture, token, work, scratch);
}

void step_row(const eft_step& step, int64_t row, Scratch& scratch) {
  const RowOptions o = row_options(step, row);
  const bool ok = dispatch_mixture(step, row, o, scratch, [&](const auto& mixture) {
    sample_row(step, row, o, mixture, scratch);
  });
  if (ok) return;
  step.tokens[row] = -1;
  invalid_details(step, row);
}

void combine_row(const eft_step& step, int64_t row, Scratch& scratch, float* z) {
  const RowOptions o = row_options(step, row);
  const bool ok = dispatch_mixture(step, row, o, scratch, [&](const auto& mixture) {
    float group_max[kTile / kLanes];
    for (int64_t first = 0; first < step.vocab_size; first += kTile) {
      // Scaled by 1, t is z.
      mixture(first, tile_length(step.vocab_size, first), 1.0f, z + first, group_max);
    }
    complete_logits(mixture, z);
  });
  if (!ok) std::fill(z, z + step.vocab_size, NAN);
}

}  // namespace

extern const StepIsa EFT_ISA;
const StepIsa EFT_ISA = {step_row, combine_row, verify_row};

}  // namespace eft
