// One row's options, resolved from scalars and tensors and checked (numerics.md §11, §12): the
// same code on the host and on devices.
#ifndef EFT_COMMON_ROW_OPTIONS_H_
#define EFT_COMMON_ROW_OPTIONS_H_

#include "common/log2.h"
#include "common/philox.h"
#include "common/portable.h"
#include "eft.h"

namespace eft {
namespace {

constexpr float kGreedyBelow = 0x1p-20f;
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.6931471805599453;
constexpr uint64_t kWhole = uint64_t(1) << 32;  // p = 1 in fixed point

struct RowOptions {
  float weights[EFT_MAX_MODELS];
  float scale;         // c = fp32(log2(e) / temperature); 1 when greedy, so that t = z
  int64_t top_k;       // 0 off
  uint64_t top_p;      // fixed point; kWhole off
  float min_p_offset;  // fp32(log2(min_p)); -inf off
  uint64_t conservative_top_p;
  uint64_t seed, position;
  bool greedy, valid;
};

EFT_HD float option_at(const eft_real& option, int64_t row) {
  return option.rows ? option.value * option.rows[row * option.stride] : option.value;
}
EFT_HD int64_t option_at(const eft_integer& option, int64_t row) {
  return option.rows ? option.rows[row] : option.value;
}

// top_p's p_fix (numerics.md §4): floor(2^32 p (1 - 2^-21)) for p in [0, 1), exact before the
// floor; 1 is off. A mass that is p in decimals has reached p, though p is rounded to fp32 and the
// mass to integers.
EFT_HD uint64_t fixed_point(float p) {
  return p < 1.0f ? uint64_t(double(p) * (0x1p32 - 0x1p11)) : kWhole;
}

EFT_HD bool is_fraction(float p) { return p >= 0.0f && p <= 1.0f; }

EFT_HD RowOptions row_options(const eft_step& step, int64_t row) {
  RowOptions o{};
  o.valid = true;
#ifdef __CUDA_ARCH__
#pragma unroll  // an index that is not constant would put the weights into local memory
#endif
  for (int k = 0; k < EFT_MAX_MODELS; ++k) {
    if (k >= step.num_models) continue;
    o.weights[k] = option_at(step.weights[k], row);
    o.valid &= fabsf(o.weights[k]) <= 0x1.fffffep127f;
  }
  const float temperature = option_at(step.temperature, row);
  const float top_p = option_at(step.top_p, row);
  const float min_p = option_at(step.min_p, row);
  const float nucleus = step.conservative ? option_at(step.conservative_top_p, row) : 1.0f;
  o.top_k = option_at(step.top_k, row);
  const int64_t position = option_at(step.position, row);
  o.valid &= temperature >= 0.0f && temperature <= 0x1.fffffep127f;
  o.valid &= is_fraction(top_p) && is_fraction(min_p) && is_fraction(nucleus);
  o.valid &= o.top_k >= 0 && position >= 0;
  if (!o.valid) return o;

  o.greedy = temperature < kGreedyBelow;
  o.scale = o.greedy ? 1.0f : float(kLog2E / double(temperature));
  o.top_p = fixed_point(top_p);
  o.min_p_offset = min_p > 0.0f ? float(log2_exact_bits(double(min_p))) : -INFINITY;
  o.conservative_top_p = fixed_point(nucleus);
  const uint64_t seed = uint64_t(option_at(step.seed, row));
  o.seed = step.seed.rows ? seed : row_seed(seed, uint64_t(row));
  o.position = uint64_t(position);
  return o;
}

}  // namespace
}  // namespace eft
#endif  // EFT_COMMON_ROW_OPTIONS_H_
