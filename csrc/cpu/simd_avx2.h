// The AVX2 form of simd.h.
#ifndef EFT_CPU_SIMD_AVX2_H_
#define EFT_CPU_SIMD_AVX2_H_
#define EFT_SIMD 1

#include <immintrin.h>

#include "common/dtype.h"

namespace eft {
namespace {

constexpr int kInterleaved = 2;  // chains; two are four of the sixteen registers

struct Lanes {
  __m256 a, b;
};
using LaneMask = Lanes;  // all bits of a lane, or none

inline Lanes splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Lanes load(const float* x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
inline void store(float* to, Lanes x) {
  _mm256_storeu_ps(to, x.a);
  _mm256_storeu_ps(to + 8, x.b);
}
inline Lanes mul(Lanes x, Lanes y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Lanes add(Lanes x, Lanes y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Lanes sub(Lanes x, Lanes y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Lanes multiply_add(Lanes x, Lanes y, Lanes z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Lanes larger(Lanes x, Lanes y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Lanes smaller(Lanes x, Lanes y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline Lanes round_down(Lanes x) { return {_mm256_floor_ps(x.a), _mm256_floor_ps(x.b)}; }
inline float largest(Lanes x) {
  float lanes[16];
  store(lanes, x);
  float most = lanes[0];
  for (float lane : lanes) most = lane > most ? lane : most;
  return most;
}

inline Lanes add_where(Lanes x, Lanes y, LaneMask where) {
  return {_mm256_add_ps(x.a, _mm256_and_ps(y.a, where.a)),
          _mm256_add_ps(x.b, _mm256_and_ps(y.b, where.b))};
}
inline float sum_of(Lanes x) {
  float lanes[16], sum = 0;
  store(lanes, x);
  for (float lane : lanes) sum += lane;
  return sum;
}

inline LaneMask above(Lanes x, Lanes cut) {
  return {_mm256_cmp_ps(x.a, cut.a, _CMP_GT_OQ), _mm256_cmp_ps(x.b, cut.b, _CMP_GT_OQ)};
}
inline LaneMask equal(Lanes x, Lanes cut) {
  return {_mm256_cmp_ps(x.a, cut.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, cut.b, _CMP_EQ_OQ)};
}
inline LaneMask first_lanes(int count) {
  const __m256i end = _mm256_set1_epi32(count);
  const __m256i a = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i b = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(end, a)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(end, b))};
}
inline LaneMask marked_lanes(uint32_t bits) {  // the low sixteen
  const __m256i all = _mm256_set1_epi32(int(bits));
  const __m256i a = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128), b = _mm256_slli_epi32(a, 8);
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, a), a)),
          _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, b), b))};
}
inline LaneMask and_(LaneMask x, LaneMask y) {
  return {_mm256_and_ps(x.a, y.a), _mm256_and_ps(x.b, y.b)};
}
// x, but not y
inline LaneMask and_not(LaneMask x, LaneMask y) {
  return {_mm256_andnot_ps(y.a, x.a), _mm256_andnot_ps(y.b, x.b)};
}
inline LaneMask or_(LaneMask x, LaneMask y) {
  return {_mm256_or_ps(x.a, y.a), _mm256_or_ps(x.b, y.b)};
}
inline int count(LaneMask m) {
  return __builtin_popcount(unsigned(_mm256_movemask_ps(m.a))) +
         __builtin_popcount(unsigned(_mm256_movemask_ps(m.b)));
}

// x where marked, y elsewhere
inline Lanes blend(LaneMask m, Lanes x, Lanes y) {
  return {_mm256_blendv_ps(y.a, x.a, m.a), _mm256_blendv_ps(y.b, x.b, m.b)};
}

// For each eight marks, which lanes come first: four bits a lane.
struct Compressions {
  uint32_t lanes[256];
  constexpr Compressions() : lanes() {
    for (uint32_t marks = 0; marks < 256; ++marks) {
      int count = 0;
      for (uint32_t lane = 0; lane < 8; ++lane) {
        if (marks >> lane & 1) lanes[marks] |= lane << (4 * count++);
      }
    }
  }
};
constexpr Compressions kCompressions;

inline int append(float* to, __m256 x, __m256 in) {
  const unsigned marks = unsigned(_mm256_movemask_ps(in));
  const __m256i packed = _mm256_set1_epi32(int(kCompressions.lanes[marks]));
  const __m256i order = _mm256_srlv_epi32(packed, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
  _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(x, order));  // of an index three bits count
  return __builtin_popcount(marks);
}
// Writes the marked lanes one after another and returns their number. Up to sixteen floats are
// written.
inline int append(float* to, Lanes x, LaneMask in) {
  const int first = append(to, x.a, in.a);
  return first + append(to + first, x.b, in.b);
}

// p * 2^n for integral n <= 23. Where n < -100 the result is wrong but below any mass.
inline __m256 times_power(__m256 p, __m256 n) {
  const __m256i exponent = _mm256_cvttps_epi32(_mm256_max_ps(n, _mm256_set1_ps(-100.0f)));
  const __m256i biased = _mm256_add_epi32(exponent, _mm256_set1_epi32(127));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23)));
}
inline Lanes times_power(Lanes p, Lanes n) {
  return {times_power(p.a, n.a), times_power(p.b, n.b)};
}

// A mask of a mass's low bits, at most 51, in the two parts of LaneMasses.
struct LowBits {
  __m256i high, low;
  explicit LowBits(int bits)
      : high(_mm256_set1_epi32(bits <= 17   ? 0
                               : bits >= 48 ? -1
                                            : (1 << (bits - 17)) - 1)),
        low(_mm256_set1_epi32((1 << (bits < 17 ? bits : 17)) - 1)) {}
};

// Sixteen masses in two parts, mass = high * 2^17 + low, so that nothing has to be widened: each of
// the eight 32-bit lanes holds the sums of its 128 tokens of a tile. w is a token's share of the
// reference * 2^kUnit.
struct LaneMasses {
  static constexpr float kUnit = 23;
  __m256i high[2], low[2];
  explicit LaneMasses(Lanes w) {
    split(w.a, high[0], low[0]);
    split(w.b, high[1], low[1]);
  }
  LaneMasses(const LaneMasses& m, const LowBits& bits) {
    for (int i = 0; i < 2; ++i) {
      high[i] = _mm256_and_si256(m.high[i], bits.high);
      low[i] = _mm256_and_si256(m.low[i], bits.low);
    }
  }

 private:
  static void split(__m256 w, __m256i& high, __m256i& low) {
    high = _mm256_cvttps_epi32(w);
    const __m256 rest = _mm256_sub_ps(w, _mm256_cvtepi32_ps(high));
    low = _mm256_cvttps_epi32(_mm256_mul_ps(rest, _mm256_set1_ps(0x1p17f)));
  }
};

class LaneSum {
 public:
  void add(const LaneMasses& m) {
    for (int i = 0; i < 2; ++i) {
      high_ = _mm256_add_epi32(high_, m.high[i]);
      low_ = _mm256_add_epi32(low_, m.low[i]);
    }
  }
  void add(const LaneMasses& m, LaneMask where) {
    const __m256i mask[2] = {_mm256_castps_si256(where.a), _mm256_castps_si256(where.b)};
    for (int i = 0; i < 2; ++i) {
      high_ = _mm256_add_epi32(high_, _mm256_and_si256(m.high[i], mask[i]));
      low_ = _mm256_add_epi32(low_, _mm256_and_si256(m.low[i], mask[i]));
    }
  }
  uint64_t total() const { return (sum(high_) << 17) + sum(low_); }

 private:
  static uint64_t sum(__m256i x) {
    uint32_t lanes[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), x);
    uint64_t all = 0;
    for (uint32_t lane : lanes) all += lane;
    return all;
  }
  __m256i high_ = _mm256_setzero_si256(), low_ = _mm256_setzero_si256();
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SIMD_AVX2_H_
