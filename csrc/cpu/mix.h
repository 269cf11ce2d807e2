// z = w_1 x_1 + w_2 x_2 + ... (+ bias) for one tile of one row, excluded tokens as -inf.
#ifndef EFT_CPU_MIX_H_
#define EFT_CPU_MIX_H_

#include "common/dtype.h"
#include "common/mass.h"
#include "common/row_options.h"

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

// Exclusion is tested on x, so an excluded token never spoils a row, whatever the other models say
// of it.
template <int K, class T, bool kBias>
void mix_tile(const T* const* x, const float* w, const float* lowest, const float* bias, int n,
              float* z) {
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    float v = to_float(x[0][i]);
    bool excluded = v <= lowest[0];
    float sum = w[0] * v;
    for (int k = 1; k < K; ++k) {
      v = to_float(x[k][i]);
      excluded |= v <= lowest[k];
      sum = fmaf(w[k], v, sum);
    }
    if (kBias) sum += bias[i];
    z[i] = excluded ? -INFINITY : sum;
  }
}

template <class T, bool kBias>
void mix_models(const T* const* x, int num_models, const float* w, const float* lowest,
                const float* bias, int n, float* z) {
  switch (num_models) {
    case 1: return mix_tile<1, T, kBias>(x, w, lowest, bias, n, z);
    case 2: return mix_tile<2, T, kBias>(x, w, lowest, bias, n, z);
    case 3: return mix_tile<3, T, kBias>(x, w, lowest, bias, n, z);
    default: return mix_tile<4, T, kBias>(x, w, lowest, bias, n, z);
  }
}

template <class T>
void convert_tile(const T* x, int n, float* out) {
#pragma omp simd
  for (int i = 0; i < n; ++i) out[i] = to_float(x[i]);
}

inline void stage_tile(const eft_logits& logits, int64_t row, int64_t first, int n, float* out) {
  if (logits.dtype == EFT_BF16) return convert_tile(logits_at<Bf16>(logits, row, first), n, out);
  if (logits.dtype == EFT_FP16) return convert_tile(logits_at<Fp16>(logits, row, first), n, out);
  convert_tile(logits_at<float>(logits, row, first), n, out);
}

inline void forbid(const int32_t* allowed, int64_t first, int n, float* z) {
  for (int i = 0; i < n; i += 32) {
    const uint32_t word = uint32_t(allowed[(first + i) / 32]);
    if (word == 0xffffffffu) continue;
    const int count = n - i < 32 ? n - i : 32;
    for (int j = 0; j < count; ++j) {
      if (!(word >> j & 1)) z[i + j] = -INFINITY;
    }
  }
}

// How a row's z comes about: plainly (a fixed row of weights), ...
struct Mixture {
  const eft_step& step;
  const RowOptions& options;
  int64_t row;
  float* staging;  // [4][1024]

  template <class T>
  void mix(int64_t first, int n, const float* bias, float* z) const {
    const T* x[EFT_MAX_MODELS];
    float lowest[EFT_MAX_MODELS];
    for (int k = 0; k < step.num_models; ++k) {
      x[k] = logits_at<T>(step.logits[k], row, first);
      lowest[k] = Lowest<T>::value;
    }
    if (bias) return mix_models<T, true>(x, step.num_models, options.weights, lowest, bias, n, z);
    mix_models<T, false>(x, step.num_models, options.weights, lowest, bias, n, z);
  }

  void mix_staged(int64_t first, int n, const float* bias, float* z) const {
    const float* x[EFT_MAX_MODELS];
    float lowest[EFT_MAX_MODELS];
    for (int k = 0; k < step.num_models; ++k) {
      stage_tile(step.logits[k], row, first, n, staging + k * kTile);
      x[k] = staging + k * kTile;
      lowest[k] = lowest_of(step.logits[k].dtype);
    }
    if (bias)
      return mix_models<float, true>(x, step.num_models, options.weights, lowest, bias, n, z);
    mix_models<float, false>(x, step.num_models, options.weights, lowest, bias, n, z);
  }

  const float* bias_at(int64_t first) const {
    return step.bias ? step.bias + row * step.bias_row_stride + first : nullptr;
  }

  void operator()(int64_t first, int n, float* z) const {
    const float* bias = bias_at(first);
    const int dtype = step.logits[0].dtype;
    bool mixed = false;
    for (int k = 1; k < step.num_models; ++k) mixed |= step.logits[k].dtype != dtype;
    if (mixed) {
      mix_staged(first, n, bias, z);
    } else if (dtype == EFT_BF16) {
      mix<Bf16>(first, n, bias, z);
    } else if (dtype == EFT_FP16) {
      mix<Fp16>(first, n, bias, z);
    } else {
      mix<float>(first, n, bias, z);
    }
    if (step.allowed) forbid(step.allowed + row * step.allowed_row_stride, first, n, z);
  }
};

// ... or one model alone, as it stands. In a row that is valid as a mixture, a token where one
// model has NaN or +inf is excluded by something else: `finite_only` leaves it out of that model's
// own distribution too.
struct OneModel {
  const eft_logits& logits;
  int64_t row;
  bool finite_only = false;

  void operator()(int64_t first, int n, float* z) const {
    stage_tile(logits, row, first, n, z);
    const float lowest = lowest_of(logits.dtype);
#pragma omp simd
    for (int i = 0; i < n; ++i) {
      const bool excluded = z[i] <= lowest || (finite_only && !(z[i] < INFINITY));
      z[i] = excluded ? -INFINITY : z[i];
    }
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_MIX_H_
