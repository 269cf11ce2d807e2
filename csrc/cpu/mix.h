// One tile of a row: z = w_1 x_1 + w_2 x_2 + ... (+ bias), scaled to t, excluded tokens as -inf.
// The inputs come from memory once; what else is asked of a tile is asked while it is in L1.
#ifndef EFT_CPU_MIX_H_
#define EFT_CPU_MIX_H_

#include <algorithm>

#include "common/row_options.h"
#include "cpu/scratch.h"
#include "cpu/stage.h"

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
// spoils a row, whatever the other models say of it. The inputs are copied to locals, which no
// store to t can alias, and masks stand where conditions would be branches: without either the loop
// is scalar.
template <int K, class T, bool kExtras>
inline bool mix_tested(const TileInputs<T>& in, int n, float c, float* t) {
  const T* x[K];
  float w[K], lowest[K];
  for (int k = 0; k < K; ++k) x[k] = in.x[k], w[k] = in.weights[k], lowest[k] = in.lowest[k];
  const float* const bias = in.bias;
  const float* const forbidden = in.forbidden;
  uint32_t bad = 0;
#pragma omp simd reduction(| : bad)
  for (int i = 0; i < n; ++i) {
    float v = to_float(x[0][i]);
    uint32_t excluded = v <= lowest[0];
    float z = w[0] * v;
    for (int k = 1; k < K; ++k) {
      v = to_float(x[k][i]);
      excluded |= uint32_t(v <= lowest[k]);
      z = fmaf(w[k], v, z);
    }
    if (kExtras) {
      z += bias[i];
      excluded |= uint32_t(forbidden[i] < 0.0f);
    }
    const uint32_t mask = 0u - excluded;
    const uint32_t bits = bit_cast<uint32_t>(z * c);
    const float scaled = bit_cast<float>((bits & ~mask) | (0xff800000u & mask));
    bad |= uint32_t(!(scaled < INFINITY));
    t[i] = scaled;
  }
  return bad == 0;
}

// The same for a tile so ordinary that nothing has to be tested: half of the instructions.
template <int K, class T>
inline void mix_ordinary(const TileInputs<T>& in, int n, float c, float* t) {
  const T* x[K];
  float w[K];
  for (int k = 0; k < K; ++k) x[k] = in.x[k], w[k] = in.weights[k];
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    float z = w[0] * to_float(x[0][i]);
    for (int k = 1; k < K; ++k) z = fmaf(w[k], to_float(x[k][i]), z);
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

  void prefetch_tile(int64_t first, int n) const {
    for (int k = 0; k < step.num_models; ++k) prefetch(step.logits[k], row, first, n);
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

  void prefetch_tile(int64_t first, int n) const { prefetch(logits, row, first, n); }

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
