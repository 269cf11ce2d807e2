// A token's probability mass as an integer (numerics.md §3). Sums of integers do not depend on
// their order, so every grid, split and thread count draws the same token.
#ifndef EFT_COMMON_MASS_H_
#define EFT_COMMON_MASS_H_

#include "common/portable.h"

namespace eft {
namespace {

constexpr int kTile = 1024;  // tokens per tile
// A token this many powers of two below its reference still has mass.
constexpr float kMaxShift = 40;

// P(f) ~ 2^f on [0, 1], in [1, 2). Each fma rounds once; nothing else is fused.
EFT_HD float exp2_fraction(float f) {
  float p = 0x1.e97502p-10f;
  p = fmaf(p, f, 0x1.277854p-7f);
  p = fmaf(p, f, 0x1.c91ce6p-5f);
  p = fmaf(p, f, 0x1.ebdb56p-3f);
  p = fmaf(p, f, 0x1.62e4bap-1f);
  p = fmaf(p, f, 1.0f);
  return p;
}

// m = P(f) * 2^23, a 24-bit integer: P in [1, 2) is a multiple of 2^-23.
EFT_HD int32_t mantissa_mass(float f) { return int32_t(exp2_fraction(f) * 0x1p23f); }

// The mass of a token with scaled logit t at the reference exponent a >= floor(t); 0 for t = -inf.
EFT_HD uint64_t token_mass(float t, float a) {
  const float n = floorf(t);
  const float d = a - n;
  const bool has_mass = d <= kMaxShift;  // false for t = -inf too
  const float f = has_mass ? t - n : 0.0f;
  const float shift = has_mass ? d : 63.0f;
  return (uint64_t(uint32_t(mantissa_mass(f))) << 17) >> int32_t(shift);
}

// The shift from a tile's reference to the row's; 63 leaves nothing of a tile's mass, which is
// below 2^52.
EFT_HD int tile_shift(float row_reference, float tile_reference) {
  const float d = row_reference - tile_reference;
  return d <= 63.0f ? int(d) : 63;  // also where the tile is empty: its reference is -inf
}

// top_p's target (numerics.md §4): ceil(p_fix * mass / 2^32), the 96-bit product in two
// halves. mass < 2^63, p_fix <= 2^32.
EFT_HD uint64_t mass_target(uint64_t p_fix, uint64_t mass) {
  const uint64_t high = mass >> 32, low = mass & 0xffffffffu;
  const uint64_t part = p_fix * low;
  return p_fix * high + (part >> 32) + ((part & 0xffffffffu) != 0);
}

}  // namespace
}  // namespace eft
#endif  // EFT_COMMON_MASS_H_
