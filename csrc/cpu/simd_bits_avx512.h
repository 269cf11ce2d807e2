// Logits as they are stored, for simd.h: loaded as integers, widened, and compared by their bits.
// The AVX512 form.
#ifndef EFT_CPU_SIMD_BITS_AVX512_H_
#define EFT_CPU_SIMD_BITS_AVX512_H_

#include "cpu/simd_avx512.h"

namespace eft {
namespace {

inline __m512i load_bits(const float* x) { return _mm512_loadu_si512(x); }
inline __m256i load_bits(const Bf16* x) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
}
inline __m256i load_bits(const Fp16* x) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
}
inline Lanes widen(__m512i bits, float) { return _mm512_castsi512_ps(bits); }
inline Lanes widen(__m256i bits, Bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Lanes widen(__m256i bits, Fp16) { return _mm512_cvtph_ps(bits); }

inline __m512i larger_magnitude(__m512i most, __m512i bits, float) {
  return _mm512_max_epu32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
}
template <class Half>
inline __m256i larger_magnitude(__m256i most, __m256i bits, Half) {
  return _mm256_max_epu16(most, _mm256_and_si256(bits, _mm256_set1_epi16(0x7fff)));
}
inline bool magnitudes_within(__m512i most, uint32_t limit) {
  return _mm512_cmpgt_epu32_mask(most, _mm512_set1_epi32(int(limit))) == 0;
}
inline bool magnitudes_within(__m256i most, uint16_t limit) {
  return _mm256_cmpgt_epu16_mask(most, _mm256_set1_epi16(int16_t(limit))) == 0;
}

// The largest of all as signed and as unsigned integers: of the positive values, where there are
// any, and of the negative ones' magnitudes.
inline __m512i larger_signed(__m512i x, __m512i y) { return _mm512_max_epi32(x, y); }
inline __m512i larger_unsigned(__m512i x, __m512i y) { return _mm512_max_epu32(x, y); }
inline __m256i larger_signed(__m256i x, __m256i y) { return _mm256_max_epi16(x, y); }
inline __m256i larger_unsigned(__m256i x, __m256i y) { return _mm256_max_epu16(x, y); }
// True if the signed and the unsigned integers are those of magnitudes up to `limit`.
inline bool both_within(__m512i highest, __m512i lowest, uint32_t limit) {
  const __m512i magnitudes = _mm512_and_si512(lowest, _mm512_set1_epi32(0x7fffffff));
  return _mm512_cmpgt_epi32_mask(highest, _mm512_set1_epi32(int(limit))) == 0 &&
         magnitudes_within(magnitudes, limit);
}
inline bool both_within(__m256i highest, __m256i lowest, uint16_t limit) {
  const __m256i magnitudes = _mm256_and_si256(lowest, _mm256_set1_epi16(0x7fff));
  return _mm256_cmpgt_epi16_mask(highest, _mm256_set1_epi16(int16_t(limit))) == 0 &&
         magnitudes_within(magnitudes, limit);
}
template <class T>
using IntegerLanes = decltype(load_bits(static_cast<const T*>(nullptr)));

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SIMD_BITS_AVX512_H_
