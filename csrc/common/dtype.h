// Logits' dtypes: bf16 and fp16 widened to fp32 exactly, in operations that compilers vectorise,
// and the values that mean "excluded" (numerics.md §1).
#ifndef EFT_COMMON_DTYPE_H_
#define EFT_COMMON_DTYPE_H_

#include "common/portable.h"

namespace eft {
namespace {

struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

EFT_HD float to_float(Bf16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }

EFT_HD float to_float(Fp16 x) {
  const uint32_t magnitude = uint32_t(x.bits & 0x7fffu) << 13;
  // Scaling by 2^112 moves the exponent bias and also normalises fp16 subnormals; infinities and
  // NaN (magnitude from 0x7c00 << 13 on) only need their exponent filled.
  const float scaled = bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude | 0x7f800000u;
  const uint32_t bits = magnitude >= (0x7c00u << 13) ? special : bit_cast<uint32_t>(scaled);
  return bit_cast<float>(bits | uint32_t(x.bits & 0x8000u) << 16);
}

EFT_HD float to_float(float x) { return x; }

// The nearest value of a dtype, the even one of two.
template <class T>
EFT_HD T from_float(float x);
template <>
EFT_HD float from_float(float x) {
  return x;
}
template <>
EFT_HD Bf16 from_float(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  if (x != x) return {uint16_t(bits >> 16 | 0x40u)};
  return {uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}
template <>
EFT_HD Fp16 from_float(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // 65520 and above
  if (magnitude < 0x38800000u) {  // subnormal: the sum's last bit is worth 2^-24
    const float sum = bit_cast<float>(magnitude) + 0.5f;
    return {uint16_t(sign | (bit_cast<uint32_t>(sum) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
  return {uint16_t(sign | ((rounded - 0x38000000u) >> 13))};
}

// The lowest finite value of a dtype, which excludes a token as -inf does.
template <class T>
struct Lowest;
template <>
struct Lowest<Bf16> {
  static constexpr float value = -0x1.fep127f;
};
template <>
struct Lowest<Fp16> {
  static constexpr float value = -65504.0f;
};
template <>
struct Lowest<float> {
  static constexpr float value = -0x1.fffffep127f;
};

// The bits of a value's magnitude: they order finite magnitudes, then infinity, then NaN.
EFT_HD uint16_t magnitude(Bf16 x) { return x.bits & 0x7fffu; }
EFT_HD uint16_t magnitude(Fp16 x) { return x.bits & 0x7fffu; }
EFT_HD uint32_t magnitude(float x) { return bit_cast<uint32_t>(x) & 0x7fffffffu; }

// The largest magnitude bits that mean |x| <= limit and neither +-infinity, NaN nor the lowest
// value.
EFT_HD uint16_t magnitude_limit(Bf16, float limit) {
  const uint32_t bits = bit_cast<uint32_t>(limit) >> 16;
  return uint16_t(bits < 0x7f7eu ? bits : 0x7f7eu);
}
EFT_HD uint16_t magnitude_limit(Fp16, float limit) {
  return limit >= 65504.0f ? 0x7bfeu : 0;  // with weights beyond 2^100 every tile is tested
}
EFT_HD uint32_t magnitude_limit(float, float limit) {
  const uint32_t bits = bit_cast<uint32_t>(limit);
  return bits < 0x7f7ffffeu ? bits : 0x7f7ffffeu;
}

}  // namespace
}  // namespace eft
#endif  // EFT_COMMON_DTYPE_H_
