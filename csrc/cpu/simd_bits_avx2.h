// Logits as they are stored, for simd.h: loaded as integers, widened, and compared by their bits.
// The AVX2 form.
#ifndef EFT_CPU_SIMD_BITS_AVX2_H_
#define EFT_CPU_SIMD_BITS_AVX2_H_

#include "cpu/simd_avx2.h"

namespace eft {
namespace {

struct Bits {  // of fp32
  __m256i a, b;
};
inline Bits load_bits(const float* x) {
  const __m256i* at = reinterpret_cast<const __m256i*>(x);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline __m256i load_bits(const Bf16* x) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
}
inline __m256i load_bits(const Fp16* x) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
}
inline Lanes widen(Bits bits, float) {
  return {_mm256_castsi256_ps(bits.a), _mm256_castsi256_ps(bits.b)};
}
inline Lanes widen(__m256i bits, Bf16) {
  const __m256i a = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(bits));
  const __m256i b = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(bits, 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}
inline Lanes widen(__m256i bits, Fp16) {
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(bits)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(bits, 1))};
}

inline Bits larger_magnitude(Bits most, Bits bits, float) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  return {_mm256_max_epu32(most.a, _mm256_and_si256(bits.a, mask)),
          _mm256_max_epu32(most.b, _mm256_and_si256(bits.b, mask))};
}
template <class Half>
inline __m256i larger_magnitude(__m256i most, __m256i bits, Half) {
  return _mm256_max_epu16(most, _mm256_and_si256(bits, _mm256_set1_epi16(0x7fff)));
}
inline bool magnitudes_within(Bits most, uint32_t limit) {
  // Magnitudes and limit are below 2^31, so signed comparison serves.
  const __m256i end = _mm256_set1_epi32(int(limit));
  const __m256i over =
      _mm256_or_si256(_mm256_cmpgt_epi32(most.a, end), _mm256_cmpgt_epi32(most.b, end));
  return _mm256_testz_si256(over, over);
}
inline bool magnitudes_within(__m256i most, uint16_t limit) {
  const __m256i over = _mm256_cmpgt_epi16(most, _mm256_set1_epi16(int16_t(limit)));
  return _mm256_testz_si256(over, over);
}

// The largest of all as signed and as unsigned integers: of the positive values, where there are
// any, and of the negative ones' magnitudes. Both halves of fp32 share a register.
inline __m256i larger_signed(__m256i x, Bits y) {
  return _mm256_max_epi32(x, _mm256_max_epi32(y.a, y.b));
}
inline __m256i larger_unsigned(__m256i x, Bits y) {
  return _mm256_max_epu32(x, _mm256_max_epu32(y.a, y.b));
}
inline __m256i larger_signed(__m256i x, __m256i y) { return _mm256_max_epi16(x, y); }
inline __m256i larger_unsigned(__m256i x, __m256i y) { return _mm256_max_epu16(x, y); }
// True if the signed and the unsigned integers are those of magnitudes up to `limit`.
inline bool both_within(__m256i highest, __m256i lowest, uint32_t limit) {
  const __m256i magnitudes = _mm256_and_si256(lowest, _mm256_set1_epi32(0x7fffffff));
  return magnitudes_within(Bits{highest, magnitudes}, limit);
}
inline bool both_within(__m256i highest, __m256i lowest, uint16_t limit) {
  const __m256i magnitudes = _mm256_and_si256(lowest, _mm256_set1_epi16(0x7fff));
  return magnitudes_within(highest, limit) && magnitudes_within(magnitudes, limit);
}
template <class T>
using IntegerLanes = __m256i;

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SIMD_BITS_AVX2_H_
