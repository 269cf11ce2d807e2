// Fills a Row: scaled logits, their maxima by group and tile, integer masses by tile, all while the
// tile is in L1.
#ifndef EFT_CPU_ROW_H_
#define EFT_CPU_ROW_H_

#include <algorithm>

#include "cpu/masses.h"

namespace eft {
namespace {

inline int tile_length(int64_t n, int64_t first) {
  return int(n - first < kTile ? n - first : kTile);
}
inline int64_t num_tiles(const Row& row) { return (row.n + kTile - 1) / kTile; }

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

// What a mixer says of the tile it has written.
struct TileKind {
  bool finite;  // no NaN, no +inf
  bool clean;   // a whole tile without -inf either; then `group_max` and `top` are written too
  float top;
};

// `mixer(first, count, c, t, group_max)` writes a tile's scaled logits. Masses are formed only
// where asked for, and not for tiles that are already known to be shifted out (a_T < A - 51).
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
    float* group_max = row.group_max + first / kLanes;
    const TileKind kind = mixer(first, n, c, t, group_max);
    row.valid &= kind.finite;
    const float top = kind.clean ? kind.top : tile_maxima(t, n, group_max);
    const float a = floorf(top);
    row.tile_max[tile] = top;
    row.tile_reference[tile] = a;
    row.max_t = top > row.max_t ? top : row.max_t;
    row.reference = a > row.reference ? a : row.reference;
    // A NaN may hide the largest t, and masses are not defined above the reference.
    const bool counts = masses && kind.finite && a > -INFINITY && a >= row.reference - 51.0f;
    row.tile_mass[tile] = counts ? mass_of(t, n, a, kind.clean) : 0;
  }
  row.valid &= row.max_t > -INFINITY;
}

// The tiles' masses at the row's reference.
inline uint64_t shifted_sum(const Row& row, const uint64_t* tile_mass) {
  uint64_t sum = 0;
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    sum += tile_mass[tile] >> tile_shift(row.reference, row.tile_reference[tile]);
  }
  return sum;
}

// Z = sum of W_T >> (A - a_T).
inline uint64_t total_mass(const Row& row) { return shifted_sum(row, row.tile_mass); }

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_ROW_H_
