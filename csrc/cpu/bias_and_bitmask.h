// Bias and bitmask of a tile, one float for each token (numerics.md §11 has the bitmask's
// layout). A whole tile that needs no other test takes its bits as lane masks instead: `mix_clean`
// in mix.h.
#ifndef EFT_CPU_BIAS_AND_BITMASK_H_
#define EFT_CPU_BIAS_AND_BITMASK_H_

#include <algorithm>

#include "common/mass.h"
#include "eft.h"

namespace eft {
namespace {

// What `mix_tested` (mix.h) reads of a tile.
struct BiasAndMask {
  const float* bias;       // [n], -0 where there is none: it adds nothing
  const float* forbidden;  // [n], below 0 where the bit is 0
};

inline BiasAndMask expand_bias_and_bitmask(const eft_step& step, int64_t row, int64_t first, int n,
                                           float* staging) {
  float* forbidden = staging + 4 * kTile;
  float* no_bias = staging + 5 * kTile;
  std::fill(forbidden, forbidden + n, 0.0f);
  for (int i = 0; step.token_bitmask && i < n; i += 32) {
    const uint32_t word =
        uint32_t(step.token_bitmask[row * step.token_bitmask_row_stride + (first + i) / 32]);
    if (word == 0xffffffffu) continue;
#pragma omp simd
    for (int j = 0; j < 32; ++j) forbidden[i + j] = float(int32_t(word >> j & 1) - 1);
  }
  if (step.bias) return {step.bias + row * step.bias_row_stride + first, forbidden};
  std::fill(no_bias, no_bias + n, -0.0f);
  return {no_bias, forbidden};
}

inline bool has_bias_or_bitmask(const eft_step& step) { return step.bias || step.token_bitmask; }

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_BIAS_AND_BITMASK_H_
