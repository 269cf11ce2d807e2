// log2 with the same bits on every backend (numerics.md §6): double precision, nothing fused.
#ifndef EFT_COMMON_LOG2_H_
#define EFT_COMMON_LOG2_H_

#include "common/portable.h"

namespace eft {
namespace {

// log2 of a positive, finite, normal double: x = m * 2^e with m in [sqrt(1/2), sqrt(2)], then
// log2(m) = 2/ln2 * atanh(s), s = (m-1)/(m+1), |s| <= 0.1716; twelve odd terms leave less than
// 1e-18.
EFT_HD double log2_exact_bits(double x) {
  const uint64_t bits = bit_cast<uint64_t>(x);
  int exponent = int(bits >> 52) - 1023;
  double m = bit_cast<double>((bits & 0xfffffffffffffu) | (uint64_t(1023) << 52));
  if (m > 1.4142135623730951) {
    m *= 0.5;
    exponent += 1;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double q = s * s;
  double p = 1.0 / 23;
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
  for (int odd = 21; odd >= 1; odd -= 2) {
    p = p * q;
    p = p + 1.0 / odd;
  }
  return exponent + (s * p) * 2.8853900817779268;
}

}  // namespace
}  // namespace eft
#endif  // EFT_COMMON_LOG2_H_
