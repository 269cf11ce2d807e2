// Lines of a linear layer's weight and rows, 64 bytes each, as vectors, and the rounding of its
// sums.
//
// load(line, h) widens the h-th vector of a line. Weights and rows are loaded by the same function,
// so that it may take the elements in any order: bf16's come as the even ones and the odd ones of a
// register, which need one operation each.
#ifndef EFT_CPU_LINEAR_LANES_H_
#define EFT_CPU_LINEAR_LANES_H_

#include "cpu/vector.h"

namespace eft {
namespace {

constexpr int kLineBytes = 64;
template <class T>
constexpr int kLineSize = kLineBytes / int(sizeof(T));  // elements

// The h-th vector of a line.
inline Vector load(const float* line, int h) { return load(line + h * kWidth); }
inline Vector load(const Fp16* line, int h) { return load(line + h * kWidth); }
inline Vector load(const Bf16* line, int h) {
  const Bf16* from = line + h / 2 * 2 * kWidth;
#ifdef EFT_VECTOR_AVX512
  const __m512i pairs = _mm512_loadu_si512(from);
  return _mm512_castsi512_ps(h % 2 ? _mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000u)))
                                   : _mm512_slli_epi32(pairs, 16));
#elif defined(EFT_VECTOR_AVX2)
  const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  // Shifts in place of a mask, which would take a register that the sums need.
  return _mm256_castsi256_ps(_mm256_slli_epi32(h % 2 ? _mm256_srli_epi32(pairs, 16) : pairs, 16));
#else
  typedef uint32_t Bits __attribute__((vector_size(16)));
  Bits pairs;
  memcpy(&pairs, from, sizeof(pairs));
  return bit_cast<Vector>(h % 2 ? pairs & 0xffff0000u : pairs << 16);
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

inline void round_to(Four x, Fp16* to) {
#ifdef EFT_VECTOR_AVX2
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < 4; ++i) to[i] = from_float<Fp16>(x[i]);
#endif
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_LINEAR_LANES_H_
