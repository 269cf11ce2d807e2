// Fills a Row: scaled logits, their maxima by group and tile, integer masses by tile, all while the
// tile is in L1.
#ifndef EFT_CPU_ROW_H_
#define EFT_CPU_ROW_H_

#include <algorithm>

#include "common/mass.h"
#include "cpu/scratch.h"

namespace eft {
namespace {

inline int tile_length(int64_t n, int64_t first) {
  return int(n - first < kTile ? n - first : kTile);
}
inline int64_t num_tiles(const Row& row) { return (row.n + kTile - 1) / kTile; }

// token_mass(t, a) in two parts, mass = high * 2^17 + low, so that 32-bit lanes hold the sums of
// 256 tokens (256 * (2^24 - 1) < 2^32) and nothing has to be widened on the way. Formed in fp32,
// where it is exact: mass = trunc(P * 2^(40-d)).
struct SplitMass {
  int32_t high, low;
};

// For references where a - 100 is exact: all but rows of astronomical logits.
inline bool is_near(float a) { return fabsf(a) < 0x1p20f; }

template <bool kNear>
inline __attribute__((always_inline)) SplitMass split_mass(float t, float a) {
  float f;
  int32_t exponent;  // of mass / 2^17
  if (kNear) {
    const float x = t > a - 100.0f ? t : a - 100.0f;  // 2^-60: no mass; also where t = -inf
    const float n = floorf(x);
    f = x - n;
    exponent = int32_t(n) + (23 - int32_t(a));
  } else {
    const float n = floorf(t);
    const float fraction = t - n;                           // NaN where t = -inf
    f = fraction > 0.0f ? fraction : 0.0f;                  // and here 0
    const float distance = a - n;                           // +inf where t = -inf
    const float d = distance < 100.0f ? distance : 100.0f;  // again no mass
    exponent = 23 - int32_t(d);
  }
  const float w = exp2_fraction(f) * bit_cast<float>((127 + exponent) << 23);
  const int32_t high = int32_t(w);
  return {high, int32_t((w - float(high)) * 0x1p17f)};
}

template <bool kNear, class Keep>
inline uint64_t chunk_mass_where(const float* t, int start, int end, float a, const Keep& keep) {
  uint32_t high = 0, low = 0;
#pragma omp simd reduction(+ : high, low)
  for (int i = start; i < end; ++i) {
    const SplitMass w = split_mass<kNear>(t[i], a);
    const uint32_t mask = 0u - uint32_t(keep(i));
    high += uint32_t(w.high) & mask;
    low += uint32_t(w.low) & mask;
  }
  return (uint64_t(high) << 17) + low;
}

// Sum of token_mass(t[i], a) over the tokens where `keep(i)` is 1 and not 0 (a condition would be a
// branch, and the loop no longer vectorised).
template <class Keep>
inline uint64_t mass_where(const float* t, int n, float a, const Keep& keep) {
  uint64_t sum = 0;
  for (int start = 0; start < n; start += kChunk) {
    const int end = n - start < kChunk ? n : start + kChunk;
    sum += is_near(a) ? chunk_mass_where<true>(t, start, end, a, keep)
                      : chunk_mass_where<false>(t, start, end, a, keep);
  }
  return sum;
}

// The masses of one chunk of 256, for sums over several subsets of it.
template <bool kNear>
inline void split_masses(const float* t, float a, int32_t* high, int32_t* low) {
#pragma omp simd
  for (int i = 0; i < kChunk; ++i) {
    const SplitMass w = split_mass<kNear>(t[i], a);
    high[i] = w.high;
    low[i] = w.low;
  }
}

inline uint64_t mass_of(const float* t, int n, float a) {
  return mass_where(t, n, a, [](int) { return 1; });
}

// The largest of a tile, and the maxima of its groups on the way. t is padded to whole chunks.
inline float tile_maxima(const float* t, int n, float* group_max) {
  const int chunks = (n + kChunk - 1) / kChunk;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const float* x = t + chunk * kChunk;
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      float m = x[lane];
      for (int i = kLanes; i < kChunk; i += kLanes) m = x[i + lane] > m ? x[i + lane] : m;
      group_max[chunk * kLanes + lane] = m;
    }
  }
  float top = -INFINITY;
#pragma omp simd reduction(max : top)
  for (int g = 0; g < chunks * kLanes; ++g) top = group_max[g] > top ? group_max[g] : top;
  if (top > -0x1.fffffep127f) return top;
  // Clang starts a max reduction at the lowest finite value, so an empty tile must be looked at
  // again.
  top = -INFINITY;
  for (int g = 0; g < chunks * kLanes; ++g) top = std::max(top, group_max[g]);
  return top;
}

// `mixer(first, count, c, t)` writes a tile's scaled logits; false if one is NaN or +inf. Masses
// are formed only where asked for, and not for tiles that are already known to be shifted out (a_T
// < A - 51).
template <class Mixer>
void fill_row(const Mixer& mixer, float c, bool masses, Row& row) {
  row.max_t = -INFINITY;
  row.reference = -INFINITY;
  row.valid = true;
  std::fill(row.t + row.n, row.t + padded(row.n), -INFINITY);
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    const int64_t first = tile * kTile;
    const int n = tile_length(row.n, first);
    float* t = row.t + first;
    const bool finite = mixer(first, n, c, t);
    row.valid &= finite;
    // The next tile comes from memory while this one's masses keep the arithmetic busy.
    const int64_t next = first + kTile;
    if (next < row.n) mixer.prefetch_tile(next, tile_length(row.n, next));
    const float top = tile_maxima(t, n, row.group_max + first / kLanes);
    const float a = floorf(top);
    row.tile_max[tile] = top;
    row.tile_reference[tile] = a;
    row.max_t = top > row.max_t ? top : row.max_t;
    row.reference = a > row.reference ? a : row.reference;
    // A NaN may hide the largest t, and masses are not defined above the reference.
    const bool counts = masses && finite && a > -INFINITY && a >= row.reference - 51.0f;
    row.tile_mass[tile] = counts ? mass_of(t, n, a) : 0;
  }
  row.valid &= row.max_t > -INFINITY;
}

// Z = sum of W_T >> (A - a_T).
inline uint64_t total_mass(const Row& row) {
  uint64_t sum = 0;
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    sum += row.tile_mass[tile] >> tile_shift(row.reference, row.tile_reference[tile]);
  }
  return sum;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_ROW_H_
