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

// Sum of token_mass(t[i], a) over the tokens that `keep(i)` keeps. The masses are formed in fp32,
// where they are exact: w = trunc(P * 2^(40-d)), split at 2^17 so that 32-bit lanes hold the sums
// of 256 tokens (256 * (2^24 - 1) < 2^32) and nothing has to be widened on the way.
template <class Keep>
inline uint64_t mass_where(const float* t, int n, float a, const Keep& keep) {
  uint64_t sum = 0;
  for (int start = 0; start < n; start += kChunk) {
    const int end = n - start < kChunk ? n : start + kChunk;
    uint32_t high = 0, low = 0;
#pragma omp simd reduction(+ : high, low)
    for (int i = start; i < end; ++i) {
      const float floor_t = floorf(t[i]);
      const float fraction = t[i] - floor_t;                  // NaN where t = -inf
      const float f = fraction > 0.0f ? fraction : 0.0f;      // and here 0
      const float distance = a - floor_t;                     // +inf where t = -inf
      const float d = distance < 100.0f ? distance : 100.0f;  // 2^-60: no mass
      const float scale = bit_cast<float>((127 + 40 - 17 - int32_t(d)) << 23);  // 2^(23-d)
      const float w = exp2_fraction(f) * scale;  // mass / 2^17, exact
      const int32_t h = int32_t(w);
      const int32_t l = int32_t((w - float(h)) * 0x1p17f);
      const bool kept = keep(i);
      high += kept ? uint32_t(h) : 0u;
      low += kept ? uint32_t(l) : 0u;
    }
    sum += (uint64_t(high) << 17) + low;
  }
  return sum;
}

inline uint64_t mass_of(const float* t, int n, float a) {
  return mass_where(t, n, a, [](int) { return true; });
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
    row.valid &= mixer(first, n, c, t);
    const float top = tile_maxima(t, n, row.group_max + first / kLanes);
    const float a = floorf(top);
    row.tile_max[tile] = top;
    row.tile_reference[tile] = a;
    row.max_t = top > row.max_t ? top : row.max_t;
    row.reference = a > row.reference ? a : row.reference;
    const bool counts = masses && a > -INFINITY && a >= row.reference - 51.0f;
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
