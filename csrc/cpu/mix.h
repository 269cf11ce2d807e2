// One tile of a row: z = w_1 x_1 + w_2 x_2 + ... (+ bias), scaled to t, excluded tokens as -inf.
// The inputs come from memory once; what else is asked of a tile is asked while it is in L1.
#ifndef EFT_CPU_MIX_H_
#define EFT_CPU_MIX_H_

#include <algorithm>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "common/dtype.h"
#include "common/mass.h"
#include "common/row_options.h"
#include "cpu/scratch.h"

namespace eft {
namespace {

// What a tile is made of. `bias` and `forbidden` are read only where a tile has extras.
template <class T>
struct TileInputs {
  const T* x[EFT_MAX_MODELS];
  float weights[EFT_MAX_MODELS];
  float lowest[EFT_MAX_MODELS];
  decltype(magnitude(T{})) ordinary;  // magnitudes up to this need no tests
  const float* bias;                  // [n], -0 adds nothing
  const float* forbidden;             // [n], below 0 where `allowed` excludes
};

// t of a tile. False if one is NaN or +inf. Exclusion is tested on x, so an excluded token never
// spoils a row, whatever the other models say of it.
template <int K, class T, bool kExtras>
inline bool mix_tested(const TileInputs<T>& in, int n, float c, float* t) {
  int bad = 0;
#pragma omp simd reduction(| : bad)
  for (int i = 0; i < n; ++i) {
    float v = to_float(in.x[0][i]);
    bool excluded = v <= in.lowest[0];
    float z = in.weights[0] * v;
    for (int k = 1; k < K; ++k) {
      v = to_float(in.x[k][i]);
      excluded |= v <= in.lowest[k];
      z = fmaf(in.weights[k], v, z);
    }
    if (kExtras) {
      z += in.bias[i];
      excluded |= in.forbidden[i] < 0.0f;
    }
    const float scaled = excluded ? -INFINITY : z * c;
    bad |= !(scaled < INFINITY);
    t[i] = scaled;
  }
  return bad == 0;
}

// The same for a tile so ordinary that nothing has to be tested: half of the instructions.
template <int K, class T>
inline void mix_ordinary(const TileInputs<T>& in, int n, float c, float* t) {
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    float z = in.weights[0] * to_float(in.x[0][i]);
    for (int k = 1; k < K; ++k) z = fmaf(in.weights[k], to_float(in.x[k][i]), z);
    t[i] = z * c;
  }
}

// Whether no token of the tile can be excluded and no z or t can overflow.
template <int K, class T>
inline bool is_ordinary(const TileInputs<T>& in, int n) {
  decltype(magnitude(T{})) largest = 0;
  for (int k = 0; k < K; ++k) {
    const T* x = in.x[k];
#pragma omp simd reduction(max : largest)
    for (int i = 0; i < n; ++i) {
      const auto m = magnitude(x[i]);
      largest = m > largest ? m : largest;
    }
  }
  return largest <= in.ordinary;
}

template <int K, class T, bool kExtras>
bool mix_tile(const TileInputs<T>& in, int n, float c, float* t) {
  if (kExtras || !is_ordinary<K>(in, n)) return mix_tested<K, T, kExtras>(in, n, c, t);
  mix_ordinary<K>(in, n, c, t);
  return true;
}

// Logits up to this magnitude cannot overflow z or t: half of the largest fp32 over sum |w|, over
// c.
inline float ordinary_limit(const float* weights, int num_models, float c) {
  float sum = 1.0f;
  for (int k = 0; k < num_models; ++k) sum += fabsf(weights[k]);
  return 0x1p126f / sum / (c > 1.0f ? c : 1.0f);
}

template <class T, bool kExtras>
bool mix_models(const TileInputs<T>& in, int num_models, int n, float c, float* t) {
  switch (num_models) {
    case 1: return mix_tile<1, T, kExtras>(in, n, c, t);
    case 2: return mix_tile<2, T, kExtras>(in, n, c, t);
    case 3: return mix_tile<3, T, kExtras>(in, n, c, t);
    default: return mix_tile<4, T, kExtras>(in, n, c, t);
  }
}

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

// Bias and bitmask of a tile, spelled out as floats: what the loop above reads.
struct Extras {
  const float* bias;
  const float* forbidden;
};

inline Extras stage_extras(const eft_step& step, int64_t row, int64_t first, int n,
                           float* staging) {
  float* forbidden = staging + 4 * kTile;
  float* no_bias = staging + 5 * kTile;
  std::fill(forbidden, forbidden + n, 0.0f);
  for (int i = 0; step.allowed && i < n; i += 32) {
    const uint32_t word = uint32_t(step.allowed[row * step.allowed_row_stride + (first + i) / 32]);
    if (word == 0xffffffffu) continue;
    for (int j = 0; j < 32 && i + j < n; ++j) forbidden[i + j] = word >> j & 1 ? 0.0f : -1.0f;
  }
  if (step.bias) return {step.bias + row * step.bias_row_stride + first, forbidden};
  std::fill(no_bias, no_bias + n, -0.0f);
  return {no_bias, forbidden};
}

inline bool has_extras(const eft_step& step) { return step.bias || step.allowed; }

inline bool one_dtype(const eft_step& step) {
  for (int k = 1; k < step.num_models; ++k) {
    if (step.logits[k].dtype != step.logits[0].dtype) return false;
  }
  return true;
}

// A row's mixture with fixed weights.
struct Mixture {
  const eft_step& step;
  const RowOptions& options;
  int64_t row;
  float* staging;  // [6][1024]

  template <class T>
  bool mix(TileInputs<T>& in, int64_t first, int n, float c, float* t) const {
    for (int k = 0; k < step.num_models; ++k) {
      in.weights[k] = options.weights[k];
      in.lowest[k] = lowest_of(step.logits[k].dtype);
    }
    float limit = ordinary_limit(in.weights, step.num_models, c);
    // In a tile staged as fp32 the lowest value of fp16 is a number like any other: it must be
    // tested.
    for (int k = 0; k < step.num_models; ++k) {
      if (in.lowest[k] > Lowest<T>::value) limit = std::min(limit, -0.5f * in.lowest[k]);
    }
    in.ordinary = magnitude_limit(T{}, limit);
    if (!has_extras(step)) {
      return mix_models<T, false>(in, step.num_models, n, c, t);
    }
    const Extras extras = stage_extras(step, row, first, n, staging);
    in.bias = extras.bias;
    in.forbidden = extras.forbidden;
    return mix_models<T, true>(in, step.num_models, n, c, t);
  }

  template <class T>
  bool mix_direct(int64_t first, int n, float c, float* t) const {
    TileInputs<T> in;
    for (int k = 0; k < step.num_models; ++k) in.x[k] = logits_at<T>(step.logits[k], row, first);
    return mix(in, first, n, c, t);
  }

  bool operator()(int64_t first, int n, float c, float* t) const {
    if (one_dtype(step)) {
      const int dtype = step.logits[0].dtype;
      if (dtype == EFT_BF16) return mix_direct<Bf16>(first, n, c, t);
      if (dtype == EFT_FP32) return mix_direct<float>(first, n, c, t);
    }
    TileInputs<float> in;  // fp16, or models of several dtypes
    for (int k = 0; k < step.num_models; ++k) {
      stage(step.logits[k], row, first, n, staging + k * kTile);
      in.x[k] = staging + k * kTile;
    }
    return mix(in, first, n, c, t);
  }
};

// t = z * c in place, for mixers that write z themselves.
inline bool scale_tile(int n, float c, float* t) {
  TileInputs<float> in{};
  in.x[0] = t;
  in.weights[0] = 1.0f;
  in.lowest[0] = -INFINITY;
  return mix_tile<1, float, false>(in, n, c, t);
}

// One model alone, as it stands. In a row that is valid as a mixture, a token where one model has
// NaN or +inf is excluded by something else: `finite_only` leaves it out of that model's own
// distribution too.
struct OneModel {
  const eft_logits& logits;
  int64_t row;
  bool finite_only = false;

  bool operator()(int64_t first, int n, float c, float* t) const {
    stage(logits, row, first, n, t);
    const float lowest = lowest_of(logits.dtype);
#pragma omp simd
    for (int i = 0; i < n; ++i) {
      const bool excluded = t[i] <= lowest || (finite_only && !(t[i] < INFINITY));
      t[i] = excluded ? -INFINITY : t[i];
    }
    return scale_tile(n, c, t);
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_MIX_H_
