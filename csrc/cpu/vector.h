// `Vector`, the widest register of fp32 that the instruction set has, for the sums of products of
// linear layers and attention: four lanes for the compiler where there is neither AVX2 nor AVX-512.
// Each sum keeps its order whatever is computed beside it.
#ifndef EFT_CPU_VECTOR_H_
#define EFT_CPU_VECTOR_H_

#include <string.h>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define EFT_VECTOR_AVX2 1  // AVX-512 has these instructions too
#endif

#include "common/dtype.h"

namespace eft {
namespace {

#if defined(EFT_VECTOR_AVX2) && defined(__AVX512F__) && defined(__AVX512DQ__)
#define EFT_VECTOR_AVX512 1
using Vector = __m512;
inline Vector splat(float x) { return _mm512_set1_ps(x); }
inline Vector load(const float* x) { return _mm512_loadu_ps(x); }
inline Vector load(const Fp16* x) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}
inline void store(float* to, Vector x) { _mm512_storeu_ps(to, x); }
inline Vector multiply_add(Vector x, Vector y, Vector z) { return _mm512_fmadd_ps(x, y, z); }
inline __m256 fold(Vector x) {
  return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
}
#elif defined(EFT_VECTOR_AVX2)
using Vector = __m256;
inline Vector splat(float x) { return _mm256_set1_ps(x); }
inline Vector load(const float* x) { return _mm256_loadu_ps(x); }
inline Vector load(const Fp16* x) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}
inline void store(float* to, Vector x) { _mm256_storeu_ps(to, x); }
inline Vector multiply_add(Vector x, Vector y, Vector z) { return _mm256_fmadd_ps(x, y, z); }
inline __m256 fold(Vector x) { return x; }
#else
typedef float Vector __attribute__((vector_size(16)));
inline Vector splat(float x) { return Vector{x, x, x, x}; }
inline Vector load(const float* x) { return Vector{x[0], x[1], x[2], x[3]}; }
inline Vector load(const Fp16* x) {
  return Vector{to_float(x[0]), to_float(x[1]), to_float(x[2]), to_float(x[3])};
}
inline void store(float* to, Vector x) { memcpy(to, &x, sizeof(x)); }
inline Vector multiply_add(Vector x, Vector y, Vector z) { return x * y + z; }
#endif

constexpr int kWidth = sizeof(Vector) / sizeof(float);

typedef float Four __attribute__((vector_size(16)));

// The sums of four vectors' lanes, each in the same order.
inline Four sum_lanes(Vector a, Vector b, Vector c, Vector d) {
#ifdef EFT_VECTOR_AVX2
  const __m256 pairs =
      _mm256_hadd_ps(_mm256_hadd_ps(fold(a), fold(b)), _mm256_hadd_ps(fold(c), fold(d)));
  return _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
#else
  const auto sum = [](Vector x) { return (x[0] + x[1]) + (x[2] + x[3]); };
  return Four{sum(a), sum(b), sum(c), sum(d)};
#endif
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_VECTOR_H_
