// The decisions of speculative verification (numerics.md §8), for the host and devices.
#ifndef EFT_COMMON_VERIFY_H_
#define EFT_COMMON_VERIFY_H_

#include "common/portable.h"
#include "eft.h"

namespace eft {
namespace {

// u q < p for u = bits / 2^64, q = wq / sq, p = wp / sp; w below 2^41, s below 2^64. Exact: bits *
// a < b * 2^64 iff floor(bits * a / 2^64) < b.
EFT_HD bool accepts(uint64_t bits, uint64_t wp, uint64_t sp, uint64_t wq, uint64_t sq) {
  typedef unsigned __int128 Wide;
  const Wide a = Wide(wq) * sp, b = Wide(wp) * sq;
  return Wide(bits) * uint64_t(a >> 64) + mul_high(bits, uint64_t(a)) < b;
}

// The residual's weight of one token, an integer below 2^41 in a double; ratio = S_p / S_q.
EFT_HD double residual_weight(double wp, double wq, double ratio) {
  const double share = wq * ratio;
  const double rest = wp - share;
  return rest > 0.0 ? floor(rest) : 0.0;
}

// The mixture at position i of a verification.
EFT_HD eft_step step_at(const eft_verify& verify, int64_t i) {
  eft_step step = verify.step;
  for (int k = 0; k < step.num_models; ++k) {
    const int64_t size = step.logits[k].dtype == EFT_FP32 ? 4 : 2;
    const char* data = static_cast<const char*>(step.logits[k].data);
    step.logits[k].data = data + i * verify.logits_position_stride[k] * size;
  }
  if (step.token_bitmask) step.token_bitmask += i * verify.token_bitmask_position_stride;
  return step;
}

// The draft model alone at position i, with the bias and `token_bitmask` of the mixture there.
EFT_HD eft_step draft_at(const eft_verify& verify, const eft_step& mixture, int64_t i) {
  eft_step step = mixture;
  step.num_models = 1;
  step.logits[0] = verify.draft_logits;
  const int64_t size = verify.draft_logits.dtype == EFT_FP32 ? 4 : 2;
  const char* data = static_cast<const char*>(verify.draft_logits.data);
  if (data) step.logits[0].data = data + i * verify.draft_position_stride * size;
  step.weights[0] = {nullptr, 0, 1.0f};
  step.conservative = 0;
  step.special = {nullptr, nullptr, -1};
  step.temperature = verify.draft_temperature;
  step.top_k = verify.draft_top_k;
  step.top_p = verify.draft_top_p;
  step.min_p = verify.draft_min_p;
  return step;
}

}  // namespace
}  // namespace eft
#endif  // EFT_COMMON_VERIFY_H_
