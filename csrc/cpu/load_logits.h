// One model's logits of a tile: where they lie, and as fp32 where a loop for their dtype is not
// worth it.
#ifndef EFT_CPU_LOAD_LOGITS_H_
#define EFT_CPU_LOAD_LOGITS_H_

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "common/dtype.h"
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
void to_fp32(const T* x, int n, float* out) {
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = to_float(x[i]);
}

// By the processor's own conversion, which the compiler does not find by itself.
template <>
inline void to_fp32(const Fp16* x, int n, float* out) {
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

// One model's tile as fp32.
inline void load_as_fp32(const eft_logits& logits, int64_t row, int64_t first, int n, float* out) {
  if (logits.dtype == EFT_BF16) return to_fp32(logits_at<Bf16>(logits, row, first), n, out);
  if (logits.dtype == EFT_FP16) return to_fp32(logits_at<Fp16>(logits, row, first), n, out);
  to_fp32(logits_at<float>(logits, row, first), n, out);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_LOAD_LOGITS_H_
