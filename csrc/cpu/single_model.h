// One tile of a single model's own distribution.
#ifndef EFT_CPU_SINGLE_MODEL_H_
#define EFT_CPU_SINGLE_MODEL_H_

#include "cpu/mix.h"

namespace eft {
namespace {

// t = z * c in place, for a mixture that has written z.
inline TileReport scale_tile(int n, float c, float* t) {
  TileInputs<float> in{};
  in.x[0] = t;
  in.weights[0] = 1.0f;
  in.lowest[0] = -INFINITY;
  return {mix_tested<1, float, false>(in, n, c, t), false, false, 0.0f};
}

// A model with its own exclusions; NaN and +inf make the row invalid.
struct SingleModel {
  const eft_logits& logits;
  int64_t row;

  TileReport operator()(int64_t first, int n, float c, float* t, float* group_max) const {
    if (logits.dtype == EFT_BF16) return mix<Bf16>(first, n, c, t, group_max);
    if (logits.dtype == EFT_FP16) return mix<Fp16>(first, n, c, t, group_max);
    return mix<float>(first, n, c, t, group_max);
  }

 private:
  template <class T>
  TileReport mix(int64_t first, int n, float c, float* t, float* group_max) const {
    TileInputs<T> in{};
    in.x[0] = logits_at<T>(logits, row, first);
    in.weights[0] = 1.0f;
    in.lowest[0] = Lowest<T>::value;
    in.ordinary = magnitude_limit(T{}, ordinary_limit(in.weights, 1, c));
    return mix_tile<1, T, false>(in, n, c, t, group_max, [] {});
  }
};

// The same with NaN and +inf excluded: in a row whose mixture is valid something else excludes such
// a token, and the model's own distribution leaves it out too (numerics.md §9).
struct SingleModelFinite {
  const eft_logits& logits;
  int64_t row;

  TileReport operator()(int64_t first, int n, float c, float* t, float*) const {
    load_as_fp32(logits, row, first, n, t);
    const float lowest = lowest_of(logits.dtype);
#pragma omp simd
    for (int i = 0; i < n; ++i) {
      const bool excluded = t[i] <= lowest || !(t[i] < INFINITY);
      t[i] = excluded ? -INFINITY : t[i];
    }
    return scale_tile(n, c, t);
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SINGLE_MODEL_H_
