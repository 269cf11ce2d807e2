// Inputs of a tile spelled out as fp32: logits that are not worth a loop of their own, bias and
// bitmask.
#ifndef EFT_CPU_STAGE_H_
#define EFT_CPU_STAGE_H_

#include <algorithm>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "common/dtype.h"
#include "common/mass.h"
#include "eft.h"

namespace eft {
namespace {

inline float lowest_of(int dtype) {
  if (dtype == EFT_BF16) return Lowest<Bf16>::value;
  return dtype == EFT_FP16 ? Lowest<Fp16>::value : Lowest<float>::value;
}

template <class T>
const T* logits_at(const eft_logits& logits, int64_t row, int64_t first) {
  return static_cast<const T*>(logits.data) + row * logits.row_stride + first;
}

template <class T>
void convert(const T* x, int n, float* out) {
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = to_float(x[i]);
}

// The processor's own conversion, which the compiler does not find by itself.
template <>
inline void convert(const Fp16* x, int n, float* out) {
  int i = 0;
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    _mm512_storeu_ps(out + i, _mm512_cvtph_ps(half));
  }
#elif defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(half));
  }
#endif
  for (; i < n; ++i) out[i] = to_float(x[i]);
}

// One model's tile as fp32, for what is not worth a loop of its own.
inline void stage(const eft_logits& logits, int64_t row, int64_t first, int n, float* out) {
  if (logits.dtype == EFT_BF16) return convert(logits_at<Bf16>(logits, row, first), n, out);
  if (logits.dtype == EFT_FP16) return convert(logits_at<Fp16>(logits, row, first), n, out);
  convert(logits_at<float>(logits, row, first), n, out);
}

// Bias and bitmask of a tile, spelled out as floats: what `mix_tested` reads.
struct Extras {
  const float* bias;
  const float* forbidden;
};

inline Extras stage_extras(const eft_step& step, int64_t row, int64_t first, int n,
                           float* staging) {
  float* forbidden = staging + 4 * kTile;
  float* no_bias = staging + 5 * kTile;
  std::fill(forbidden, forbidden + n, 0.0f);
  for (int i = 0; step.token_bitmask && i < n; i += 32) {
    const uint32_t word =
        uint32_t(step.token_bitmask[row * step.token_bitmask_row_stride + (first + i) / 32]);
    if (word == 0xffffffffu) continue;
#pragma omp simd
    for (int j = 0; j < 32; ++j) forbidden[i + j] = float(int32_t(word >> j & 1) - 1);
  }
  if (step.bias) return {step.bias + row * step.bias_row_stride + first, forbidden};
  std::fill(no_bias, no_bias + n, -0.0f);
  return {no_bias, forbidden};
}

inline bool has_extras(const eft_step& step) { return step.bias || step.token_bitmask; }

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_STAGE_H_
