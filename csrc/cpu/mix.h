// One tile of a row: z = w_1 x_1 + w_2 x_2 + ... (+ bias), excluded tokens as -inf, scaled to t,
// with the maxima of its blocks. All in one pass over the inputs.
#ifndef EFT_CPU_MIX_H_
#define EFT_CPU_MIX_H_

#include <algorithm>

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
  const float* bias;       // [n], -0 adds nothing
  const float* forbidden;  // [n], below 0 where `allowed` excludes
};

// n tokens at `at`, of which the largest t goes to `top`. False if a t is NaN or +inf. Exclusion is
// tested on x, so an excluded token never spoils a row, whatever the other models say of it.
template <int K, class T, bool kExtras>
inline bool mix_block(const TileInputs<T>& in, int at, int n, float c, float* t, float* top) {
  const T* x[K];
  float w[K], lowest[K];
  for (int k = 0; k < K; ++k) x[k] = in.x[k] + at, w[k] = in.weights[k], lowest[k] = in.lowest[k];
  const float* bias = kExtras ? in.bias + at : nullptr;
  const float* forbidden = kExtras ? in.forbidden + at : nullptr;
  float m = -INFINITY;
  int bad = 0;
#pragma omp simd reduction(max : m) reduction(| : bad)
  for (int i = 0; i < n; ++i) {
    float v = to_float(x[0][i]);
    bool excluded = v <= lowest[0];
    float z = w[0] * v;
    for (int k = 1; k < K; ++k) {
      v = to_float(x[k][i]);
      excluded |= v <= lowest[k];
      z = fmaf(w[k], v, z);
    }
    if (kExtras) {
      z += bias[i];
      excluded |= forbidden[i] < 0.0f;
    }
    const float scaled = excluded ? -INFINITY : z * c + 0.0f;  // -0 becomes +0
    bad |= !(scaled < INFINITY);
    t[at + i] = scaled;
    m = scaled > m ? scaled : m;
  }
  *top = m;
  return bad == 0;
}

template <int K, class T, bool kExtras>
bool mix_tile(const TileInputs<T>& in, int n, float c, float* t, float* block_max) {
  bool ok = true;
  int at = 0;
  for (; at + kBlock <= n; at += kBlock) {
    ok &= mix_block<K, T, kExtras>(in, at, kBlock, c, t, block_max++);  // a constant length unrolls
  }
  if (at < n) ok &= mix_block<K, T, kExtras>(in, at, n - at, c, t, block_max);
  return ok;
}

template <class T, bool kExtras>
bool mix_models(const TileInputs<T>& in, int num_models, int n, float c, float* t,
                float* block_max) {
  switch (num_models) {
    case 1: return mix_tile<1, T, kExtras>(in, n, c, t, block_max);
    case 2: return mix_tile<2, T, kExtras>(in, n, c, t, block_max);
    case 3: return mix_tile<3, T, kExtras>(in, n, c, t, block_max);
    default: return mix_tile<4, T, kExtras>(in, n, c, t, block_max);
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
  bool mix(TileInputs<T>& in, int64_t first, int n, float c, float* t, float* block_max) const {
    for (int k = 0; k < step.num_models; ++k) {
      in.weights[k] = options.weights[k];
      in.lowest[k] = lowest_of(step.logits[k].dtype);
    }
    if (!has_extras(step)) {
      return mix_models<T, false>(in, step.num_models, n, c, t, block_max);
    }
    const Extras extras = stage_extras(step, row, first, n, staging);
    in.bias = extras.bias;
    in.forbidden = extras.forbidden;
    return mix_models<T, true>(in, step.num_models, n, c, t, block_max);
  }

  template <class T>
  bool mix_direct(int64_t first, int n, float c, float* t, float* block_max) const {
    TileInputs<T> in;
    for (int k = 0; k < step.num_models; ++k) in.x[k] = logits_at<T>(step.logits[k], row, first);
    return mix(in, first, n, c, t, block_max);
  }

  bool operator()(int64_t first, int n, float c, float* t, float* block_max) const {
    if (one_dtype(step)) {
      const int dtype = step.logits[0].dtype;
      if (dtype == EFT_BF16) return mix_direct<Bf16>(first, n, c, t, block_max);
      if (dtype == EFT_FP16) return mix_direct<Fp16>(first, n, c, t, block_max);
      return mix_direct<float>(first, n, c, t, block_max);
    }
    TileInputs<float> in;
    for (int k = 0; k < step.num_models; ++k) {
      stage(step.logits[k], row, first, n, staging + k * kTile);
      in.x[k] = staging + k * kTile;
    }
    return mix(in, first, n, c, t, block_max);
  }
};

// t = z * c in place, for mixers that write z themselves.
inline bool scale_tile(int n, float c, float* t, float* block_max) {
  const TileInputs<float> in = {{t}, {1.0f}, {-INFINITY}, nullptr, nullptr};
  return mix_tile<1, float, false>(in, n, c, t, block_max);
}

// One model alone, as it stands. In a row that is valid as a mixture, a token where one model has
// NaN or +inf is excluded by something else: `finite_only` leaves it out of that model's own
// distribution too.
struct OneModel {
  const eft_logits& logits;
  int64_t row;
  bool finite_only = false;

  bool operator()(int64_t first, int n, float c, float* t, float* block_max) const {
    stage(logits, row, first, n, t);
    const float lowest = lowest_of(logits.dtype);
#pragma omp simd
    for (int i = 0; i < n; ++i) {
      const bool excluded = t[i] <= lowest || (finite_only && !(t[i] < INFINITY));
      t[i] = excluded ? -INFINITY : t[i];
    }
    return scale_tile(n, c, t, block_max);
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_MIX_H_
