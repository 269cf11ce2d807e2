// `Vec`, fp32 lanes for linear_isa.cpp: one register of AVX-512, AVX2, or four plain floats.
//
// load<T>(x, h) widens the h-th vector of a line, the 64 bytes at `x`. Weights and rows are loaded
// by the same function, so that it may take the elements in any order: bf16's come as the even ones
// and the odd ones of a register, which need one operation each.
#ifndef EFT_CPU_LINEAR_LANES_H_
#define EFT_CPU_LINEAR_LANES_H_

#include <string.h>

#include "common/dtype.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#endif

namespace eft {
namespace {

constexpr int kLineBytes = 64;
template <class T>
constexpr int kLineSize = kLineBytes / int(sizeof(T));  // elements

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int kLanes = 16;
using Vec = __m512;

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec load_fp32(const float* x) { return _mm512_loadu_ps(x); }
inline void store_fp32(float* to, Vec x) { _mm512_storeu_ps(to, x); }
inline Vec multiply_add(Vec a, Vec b, Vec sum) { return _mm512_fmadd_ps(a, b, sum); }
template <class T>
Vec load(const T* x, int h) {
  if constexpr (sizeof(T) == 4) return load_fp32(x + h * kLanes);
}
template <>
inline Vec load(const Bf16* x, int h) {
  const __m512i pairs = _mm512_loadu_si512(x + h / 2 * 2 * kLanes);
  return _mm512_castsi512_ps(h % 2 ? _mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000u)))
                                   : _mm512_slli_epi32(pairs, 16));
}
template <>
inline Vec load(const Fp16* x, int h) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + h * kLanes)));
}
inline __m256 halves(Vec x) {
  return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
constexpr int kLanes = 8;
using Vec = __m256;

inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec load_fp32(const float* x) { return _mm256_loadu_ps(x); }
inline void store_fp32(float* to, Vec x) { _mm256_storeu_ps(to, x); }
inline Vec multiply_add(Vec a, Vec b, Vec sum) { return _mm256_fmadd_ps(a, b, sum); }
template <class T>
Vec load(const T* x, int h) {
  if constexpr (sizeof(T) == 4) return load_fp32(x + h * kLanes);
}
template <>
inline Vec load(const Bf16* x, int h) {
  const __m256i pairs =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + h / 2 * 2 * kLanes));
  // Shifts in place of a mask, which would take a register that the sums need.
  return _mm256_castsi256_ps(_mm256_slli_epi32(h % 2 ? _mm256_srli_epi32(pairs, 16) : pairs, 16));
}
template <>
inline Vec load(const Fp16* x, int h) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + h * kLanes)));
}
inline __m256 halves(Vec x) { return x; }

#else
constexpr int kLanes = 4;
typedef float Vec __attribute__((vector_size(16)));

inline Vec zero() { return Vec{}; }
inline Vec load_fp32(const float* x) {
  Vec v;
  memcpy(&v, x, sizeof(v));
  return v;
}
inline void store_fp32(float* to, Vec x) { memcpy(to, &x, sizeof(x)); }
inline Vec multiply_add(Vec a, Vec b, Vec sum) { return sum + a * b; }
template <class T>
Vec load(const T* x, int h) {
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = to_float(x[h * kLanes + i]);
  return load_fp32(lanes);
}
template <>
inline Vec load(const Bf16* x, int h) {
  typedef uint32_t Bits __attribute__((vector_size(16)));
  Bits pairs;
  memcpy(&pairs, x + h / 2 * 2 * kLanes, sizeof(pairs));
  pairs = h % 2 ? pairs & 0xffff0000u : pairs << 16;
  Vec v;
  memcpy(&v, &pairs, sizeof(v));
  return v;
}
#endif

// Four outputs.
typedef float Four __attribute__((vector_size(16)));

// The sums of four vectors, in the same order for each.
inline Four sum_lanes(Vec a, Vec b, Vec c, Vec d) {
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
  const __m256 pairs =
      _mm256_hadd_ps(_mm256_hadd_ps(halves(a), halves(b)), _mm256_hadd_ps(halves(c), halves(d)));
  return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
#else
  const auto sum = [](Vec v) { return (v[0] + v[1]) + (v[2] + v[3]); };
  return Four{sum(a), sum(b), sum(c), sum(d)};
#endif
}

// Rounds to nearest, ties to even; a NaN stays one.
inline void round_to(Four x, float* to) { memcpy(to, &x, sizeof(x)); }

inline void round_to(Four x, Bf16* to) {
  typedef uint32_t Bits __attribute__((vector_size(16)));
  typedef uint16_t Halves __attribute__((vector_size(8)));
  Bits bits;
  memcpy(&bits, &x, sizeof(bits));
  const Bits rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const Bits is_nan = Bits((bits & 0x7fffffffu) > 0x7f800000u);
  const Halves halves = __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7fc0u), Halves);
  memcpy(to, &halves, sizeof(halves));
}

inline uint16_t fp16_bits(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 rounds at the last bit
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    return uint16_t(sign | (bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  return uint16_t(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

inline void round_to(Four x, Fp16* to) {
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < 4; ++i) to[i].bits = fp16_bits(x[i]);
#endif
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_LINEAR_LANES_H_
