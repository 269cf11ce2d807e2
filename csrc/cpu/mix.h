// One tile of a row's mixture (numerics.md §1, §2): z = w_1 x_1 + w_2 x_2 + ... (+ bias),
// scaled to t, excluded tokens as -inf. The inputs are read from memory once; all later work on the
// tile is done while it is in L1.
#ifndef EFT_CPU_MIX_H_
#define EFT_CPU_MIX_H_

#include <algorithm>

#include "common/row_options.h"
#include "cpu/bias_and_bitmask.h"
#include "cpu/load_logits.h"
#include "cpu/mix_clean.h"

namespace eft {
namespace {

// Writes t of a tile, testing each token. False if one is NaN or +inf. Exclusion is tested on x, so
// an excluded token never makes its row invalid. The inputs are copied to locals, which no store to
// t can alias, and masks replace branches: without either the loop is not vectorised.
template <int K, class T, bool kBiasOrMask>
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
    if (kBiasOrMask) {
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

// `expand` expands bias and bitmask for `mix_tested`.
template <int K, class T, bool kBiasOrMask, class Expand>
TileReport mix_tile(TileInputs<T>& in, int n, float c, float* t, float* group_max,
                    const Expand& expand) {
  TileReport report{};
  if (n == kTile && mix_clean_of<K, T, kBiasOrMask>(in, c, t, group_max, &report.max_t)) {
    report.finite = report.has_maxima = true;
    report.clean = !kBiasOrMask || !in.token_bitmask;
    report.owner_below = in.owner_below;
    report.owner_max = in.owner_max;
    return report;
  }
  if (kBiasOrMask) expand();
  report.finite = mix_tested<K, T, kBiasOrMask>(in, n, c, t);
  return report;
}

// Logits up to this magnitude cannot overflow z or t: half of the largest fp32, over 1 + sum |w|,
// over c where that is above 1.
inline float ordinary_limit(const float* weights, int num_models, float c) {
  float sum = 1.0f;
  for (int k = 0; k < num_models; ++k) sum += fabsf(weights[k]);
  return 0x1p126f / sum / (c > 1.0f ? c : 1.0f);
}

template <class T, bool kBiasOrMask, class Expand>
TileReport mix_models(TileInputs<T>& in, int num_models, int n, float c, float* t, float* group_max,
                      const Expand& expand) {
  switch (num_models) {
    case 1: return mix_tile<1, T, kBiasOrMask>(in, n, c, t, group_max, expand);
    case 2: return mix_tile<2, T, kBiasOrMask>(in, n, c, t, group_max, expand);
    case 3: return mix_tile<3, T, kBiasOrMask>(in, n, c, t, group_max, expand);
    default: return mix_tile<4, T, kBiasOrMask>(in, n, c, t, group_max, expand);
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
  int owner = 0;   // of special tokens: 1 + its index, 0 for none
  float best_of_owner = 0;

  TileReport operator()(int64_t first, int n, float c, float* t, float* group_max) const {
    if (one_dtype(step)) {
      switch (step.logits[0].dtype) {
        case EFT_BF16: return mix_direct<Bf16>(first, n, c, t, group_max);
        case EFT_FP16: return mix_direct<Fp16>(first, n, c, t, group_max);
        default: return mix_direct<float>(first, n, c, t, group_max);
      }
    }
    TileInputs<float> in;
    for (int k = 0; k < step.num_models; ++k) {
      load_as_fp32(step.logits[k], row, first, n, staging + k * kTile);
      in.x[k] = staging + k * kTile;
    }
    return mix(in, first, n, c, t, group_max);
  }

 private:
  template <class T>
  TileReport mix_direct(int64_t first, int n, float c, float* t, float* group_max) const {
    TileInputs<T> in;
    for (int k = 0; k < step.num_models; ++k) in.x[k] = logits_at<T>(step.logits[k], row, first);
    return mix(in, first, n, c, t, group_max);
  }

  template <class T>
  TileReport mix(TileInputs<T>& in, int64_t first, int n, float c, float* t,
                 float* group_max) const {
    for (int k = 0; k < step.num_models; ++k) {
      in.weights[k] = options.weights[k];
      in.lowest[k] = lowest_of(step.logits[k].dtype);
    }
    float limit = ordinary_limit(in.weights, step.num_models, c);
    // In a tile staged as fp32 an fp16 model's lowest value is an ordinary number, so it has to be
    // tested.
    for (int k = 0; k < step.num_models; ++k) {
      if (in.lowest[k] > Lowest<T>::value) limit = std::min(limit, -0.5f * in.lowest[k]);
    }
    in.ordinary = magnitude_limit(T{}, limit);
    in.ordinary_limit = limit;
    in.owner = owner;
    in.best_of_owner = best_of_owner;
    in.raw_bias = step.bias ? step.bias + row * step.bias_row_stride + first : nullptr;
    in.token_bitmask = step.token_bitmask
                           ? step.token_bitmask + row * step.token_bitmask_row_stride + first / 32
                           : nullptr;
    const auto expand = [&] {
      const BiasAndMask expanded = expand_bias_and_bitmask(step, row, first, n, staging);
      in.bias = expanded.bias;
      in.forbidden = expanded.forbidden;
    };
    return has_bias_or_bitmask(step)
               ? mix_models<T, true>(in, step.num_models, n, c, t, group_max, expand)
               : mix_models<T, false>(in, step.num_models, n, c, t, group_max, expand);
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_MIX_H_
