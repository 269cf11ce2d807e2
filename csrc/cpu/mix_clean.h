// The usual tile of a mixture: no logit excludes its token, and nothing overflows.
#ifndef EFT_CPU_MIX_CLEAN_H_
#define EFT_CPU_MIX_CLEAN_H_

#include "common/row_options.h"
#include "cpu/row.h"
#include "cpu/simd.h"

namespace eft {
namespace {

// The inputs of a tile. The fields below `ordinary_limit` are read only where there is a bias or
// bitmask: as the caller gave them (null where there is none) by `mix_clean`, expanded by
// `mix_tested`.
template <class T>
struct TileInputs {
  const T* x[EFT_MAX_MODELS];
  float weights[EFT_MAX_MODELS];
  float lowest[EFT_MAX_MODELS];
  decltype(magnitude(T{})) ordinary;  // magnitudes up to this need no test
  float ordinary_limit;               // the same limit as fp32
  const float* raw_bias;              // [n]
  const int32_t* token_bitmask;       // [n / 32]
  const float* bias;                  // [n], -0 adds nothing
  const float* forbidden;             // [n], below 0 where `token_bitmask` excludes
  int owner = 0;                      // of special tokens: 1 + its index, 0 for none
  float best_of_owner = 0;            // so far
  bool owner_below = false;           // a clean tile has nothing above it
  float owner_max = NAN;              // the tile's, where it is above 0
};

// Writes t and the maxima of a whole tile in which no logit can exclude its token and no z or t can
// overflow: half of the work of `mix_tested`. False, and t undefined, for any other tile.
template <int K, class T, bool kBiasOrMask, int kOwner>
inline bool mix_clean(TileInputs<T>& in, float c, float* t, float* group_max, float* max_t) {
#ifdef EFT_SIMD
  const T* x[K];
  Lanes w[K];
  Loader<T> logits[K];
  for (int k = 0; k < K; ++k) x[k] = in.x[k], w[k] = splat(in.weights[k]);
  const Lanes scale = splat(c), excluded = splat(-INFINITY);
  const float* const bias = in.raw_bias;
  const int32_t* const token_bitmask = in.token_bitmask;
  Loader<float> biases;
  OwnerLoader<T> of_owner;
  Lanes highest = splat(-INFINITY);
  for (int chunk = 0; chunk < kTile; chunk += kChunk) {
    Lanes most = splat(-INFINITY);
    for (int i = chunk; i < chunk + kChunk; i += 16) {
      Lanes z = mul(w[0], kOwner == 1 ? of_owner(x[0] + i) : logits[0](x[0] + i));
      for (int k = 1; k < K; ++k) {
        z = multiply_add(w[k], kOwner == k + 1 ? of_owner(x[k] + i) : logits[k](x[k] + i), z);
      }
      if (kBiasOrMask && bias) z = add(z, biases(bias + i));
      z = mul(z, scale);
      if (kBiasOrMask && token_bitmask) {
        z = blend(marked_lanes(uint32_t(token_bitmask[i / 32]) >> i % 32), z, excluded);
      }
      most = larger(most, z);
      store(t + i, z);
    }
    store(group_max + chunk / kLanes, most);
    highest = larger(highest, most);
  }
  *max_t = largest(highest);
  for (int k = 0; k < K; ++k) {
    if (!logits[k].within(in.ordinary)) return false;
  }
  if (kOwner) {
    if (!of_owner.within(in.ordinary)) return false;
    const float highest = of_owner.highest();
    in.owner_below = highest <= in.best_of_owner;
    if (highest > 0.0f) in.owner_max = highest;
  }
  return !kBiasOrMask || biases.within(magnitude_limit(0.0f, in.ordinary_limit));
#else
  if (kBiasOrMask) return false;
  const T* x[K];
  float w[K];
  decltype(magnitude(T{})) most = 0;
  for (int k = 0; k < K; ++k) {
    x[k] = in.x[k], w[k] = in.weights[k];
    const T* logits = x[k];
#pragma omp simd reduction(max : most)
    for (int i = 0; i < kTile; ++i) {
      const auto m = magnitude(logits[i]);
      most = m > most ? m : most;
    }
  }
  if (most > in.ordinary) return false;
#pragma omp simd
  for (int i = 0; i < kTile; ++i) {
    float z = w[0] * to_float(x[0][i]);
    for (int k = 1; k < K; ++k) z = fmaf(w[k], to_float(x[k][i]), z);
    t[i] = z * c;
  }
  *max_t = tile_maxima(t, kTile, group_max);
  return true;
#endif
}

// `mix_clean` for the owner that there is. Where there is a bias or a bitmask its logits need a
// look of their own anyway.
template <int K, class T, bool kBiasOrMask, int kOwner = kBiasOrMask || K == 1 ? 0 : K>
inline bool mix_clean_of(TileInputs<T>& in, float c, float* t, float* group_max, float* max_t) {
  if constexpr (kOwner > 0) {
    if (in.owner != kOwner) {
      return mix_clean_of<K, T, kBiasOrMask, kOwner - 1>(in, c, t, group_max, max_t);
    }
  }
  return mix_clean<K, T, kBiasOrMask, kOwner>(in, c, t, group_max, max_t);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_MIX_CLEAN_H_
