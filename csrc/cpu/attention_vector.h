// Vectors of attention: exponentials, maxima and masks beside the sums of vector.h.
#ifndef EFT_CPU_ATTENTION_VECTOR_H_
#define EFT_CPU_ATTENTION_VECTOR_H_

#include "cpu/vector.h"

namespace eft {
namespace {

#ifdef EFT_VECTOR_AVX512
inline Vector load(const Bf16* x) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
// y where either is NaN
inline Vector larger(Vector x, Vector y) { return _mm512_max_ps(x, y); }
inline Vector nearest(Vector x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// 2^n for an integral n from -127, which gives 0, to 127
inline Vector power_of_two(Vector n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
// x, or -inf where bias is -inf, whatever x is; plus bias
inline Vector add_bias(Vector x, Vector bias) {
  const Vector excluded = _mm512_set1_ps(-INFINITY);
  const __mmask16 out = _mm512_cmp_ps_mask(bias, excluded, _CMP_EQ_OQ);
  return _mm512_mask_blend_ps(out, _mm512_add_ps(x, bias), excluded);
}
#elif defined(EFT_VECTOR_AVX2)
inline Vector load(const Bf16* x) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Vector larger(Vector x, Vector y) { return _mm256_max_ps(x, y); }
inline Vector nearest(Vector x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Vector power_of_two(Vector n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline Vector add_bias(Vector x, Vector bias) {
  const Vector excluded = _mm256_set1_ps(-INFINITY);
  const Vector out = _mm256_cmp_ps(bias, excluded, _CMP_EQ_OQ);
  return _mm256_blendv_ps(_mm256_add_ps(x, bias), excluded, out);
}
#else
typedef uint32_t Integers __attribute__((vector_size(16)));
inline Vector load(const Bf16* x) {
  return Vector{to_float(x[0]), to_float(x[1]), to_float(x[2]), to_float(x[3])};
}
inline Vector larger(Vector x, Vector y) { return x > y ? x : y; }
inline Vector nearest(Vector x) {  // of magnitudes below 2^22
  const Vector shift = splat(0x1.8p23f);
  return (x + shift) - shift;
}
inline Vector power_of_two(Vector n) {
  const Vector shifted = n + splat(0x1.8p23f + 127);  // the integer is in the low bits
  return bit_cast<Vector>(bit_cast<Integers>(shifted) << 23);
}
inline Vector add_bias(Vector x, Vector bias) {
  const Vector excluded = splat(-INFINITY);
  return bias == excluded ? excluded : x + bias;
}
#endif

// The first `count` < kWidth values, and 0 in the other lanes; nothing behind them is read.
template <class T>
Vector load_first(const T* x, int count) {
  float lanes[kWidth] = {};
  for (int i = 0; i < count; ++i) lanes[i] = to_float(x[i]);
  return load(lanes);
}

inline float sum_of(Vector x) { return sum_lanes(x, x, x, x)[0]; }
inline float largest(Vector x) {
  float lanes[kWidth];
  store(lanes, x);
  float most = lanes[0];
  for (float lane : lanes) most = lane > most ? lane : most;
  return most;
}

// e^x of x <= 0 within 1.2e-7 of its value (and exactly 1 of 0); 0 where it is below 2^-126.
// NaN stays.
inline Vector exponential(Vector x) {
  x = larger(splat(-88.0f), x);
  const Vector n = nearest(x * splat(1.44269504f));
  Vector f = multiply_add(n, splat(-0.693359375f), x);
  f = multiply_add(n, splat(2.12194440e-4f), f);
  Vector p = splat(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 0.5f}) {
    p = multiply_add(p, f, splat(c));
  }
  p = multiply_add(p, f * f, f) + splat(1.0f);
  return p * power_of_two(n);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_ATTENTION_VECTOR_H_
