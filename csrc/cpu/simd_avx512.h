// The AVX-512 form of simd.h.
#ifndef EFT_CPU_SIMD_AVX512_H_
#define EFT_CPU_SIMD_AVX512_H_
#define EFT_SIMD 1
#define EFT_SIMD_AVX512 1

#include <immintrin.h>

#include "common/dtype.h"

namespace eft {
namespace {

constexpr int kInterleaved = 4;  // chains; 3 to 5 take the same time, 8 spill

using Lanes = __m512;
using LaneMask = __mmask16;

inline Lanes splat(float x) { return _mm512_set1_ps(x); }
inline Lanes load(const float* x) { return _mm512_loadu_ps(x); }
inline void store(float* to, Lanes x) { _mm512_storeu_ps(to, x); }
inline Lanes mul(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
inline Lanes add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
inline Lanes sub(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
inline Lanes larger(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
inline Lanes smaller(Lanes a, Lanes b) { return _mm512_min_ps(a, b); }
inline Lanes round_down(Lanes x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
inline Lanes add_where(Lanes a, Lanes b, LaneMask where) {
  return _mm512_mask_add_ps(a, where, a, b);
}
inline float sum_of(Lanes x) { return _mm512_reduce_add_ps(x); }
inline float largest(Lanes x) { return _mm512_reduce_max_ps(x); }

inline LaneMask above(Lanes x, Lanes cut) { return _mm512_cmp_ps_mask(x, cut, _CMP_GT_OQ); }
inline LaneMask equal(Lanes x, Lanes cut) { return _mm512_cmp_ps_mask(x, cut, _CMP_EQ_OQ); }
inline LaneMask first_lanes(int count) {
  return LaneMask(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
}
inline LaneMask marked_lanes(uint32_t bits) { return LaneMask(bits); }  // the low sixteen
inline LaneMask and_(LaneMask a, LaneMask b) { return LaneMask(a & b); }
// a, but not b
inline LaneMask and_not(LaneMask a, LaneMask b) { return LaneMask(a & ~b); }
inline LaneMask or_(LaneMask a, LaneMask b) { return LaneMask(a | b); }
inline int count(LaneMask m) { return __builtin_popcount(m); }

// a where marked, b elsewhere
inline Lanes blend(LaneMask m, Lanes a, Lanes b) { return _mm512_mask_blend_ps(m, b, a); }
// Writes the marked lanes one after another and returns their number. Sixteen floats are written.
inline int append(float* to, Lanes x, LaneMask in) {
  // Compressed in a register: the form that writes to memory is microcode on some processors.
  _mm512_storeu_ps(to, _mm512_maskz_compress_ps(in, x));
  return count(in);
}

// p * 2^n for integral n, 0 where that underflows.
inline Lanes times_power(Lanes p, Lanes n) { return _mm512_scalef_ps(p, n); }

// A mask of a mass's low bits, at most 51.
struct LowBits {
  __m512i mask;
  explicit LowBits(int bits) : mask(_mm512_set1_epi64((int64_t(1) << bits) - 1)) {}
};

// Sixteen masses, trunc(2^40 * a token's share of the reference); w is the share * 2^kUnit.
struct LaneMasses {
  static constexpr float kUnit = 40;
  __m512i first, second;
  explicit LaneMasses(Lanes w)
      : first(_mm512_cvttps_epi64(_mm512_castps512_ps256(w))),
        second(_mm512_cvttps_epi64(_mm512_extractf32x8_ps(w, 1))) {}
  LaneMasses(const LaneMasses& m, const LowBits& low)
      : first(_mm512_and_si512(m.first, low.mask)), second(_mm512_and_si512(m.second, low.mask)) {}
};

class LaneSum {
 public:
  void add(const LaneMasses& m) {
    first_ = _mm512_add_epi64(first_, m.first);
    second_ = _mm512_add_epi64(second_, m.second);
  }
  void add(const LaneMasses& m, LaneMask where) {
    first_ = _mm512_mask_add_epi64(first_, __mmask8(where), first_, m.first);
    second_ = _mm512_mask_add_epi64(second_, __mmask8(where >> 8), second_, m.second);
  }
  uint64_t total() const {
    return uint64_t(_mm512_reduce_add_epi64(_mm512_add_epi64(first_, second_)));
  }

 private:
  __m512i first_ = _mm512_setzero_si512(), second_ = _mm512_setzero_si512();
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SIMD_AVX512_H_
