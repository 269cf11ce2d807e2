// Fills a Row: scaled logits, their maxima by block, integer masses by tile, all while the tile is
// in L1.
#ifndef EFT_CPU_ROW_H_
#define EFT_CPU_ROW_H_

#include "common/mass.h"
#include "cpu/scratch.h"

namespace eft {
namespace {

inline int tile_length(int64_t n, int64_t first) {
  return int(n - first < kTile ? n - first : kTile);
}
inline int64_t num_tiles(const Row& row) { return (row.n + kTile - 1) / kTile; }
inline int64_t num_blocks(const Row& row) { return (row.n + kBlock - 1) / kBlock; }

inline uint64_t mass_of(const float* t, int n, float a) {
  uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < n; ++i) sum += token_mass(t[i], a);
  return sum;
}

// `mixer(first, count, c, t, block_max)` writes a tile's scaled logits and the maxima of its
// blocks; false if one is NaN or +inf. Masses are formed only where asked for, and not for tiles
// that are already known to be shifted out (a_T < A - 51).
template <class Mixer>
void fill_row(const Mixer& mixer, float c, bool masses, Row& row) {
  row.max_t = -INFINITY;
  row.reference = -INFINITY;
  row.valid = true;
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    const int64_t first = tile * kTile;
    const int n = tile_length(row.n, first);
    float* t = row.t + first;
    const float* block_max = row.block_max + first / kBlock;
    row.valid &= mixer(first, n, c, t, row.block_max + first / kBlock);
    float top = -INFINITY;
    for (int b = 0; b * kBlock < n; ++b) top = block_max[b] > top ? block_max[b] : top;
    const float a = floorf(top);
    row.tile_reference[tile] = a;
    row.max_t = top > row.max_t ? top : row.max_t;
    row.reference = a > row.reference ? a : row.reference;
    row.tile_mass[tile] = masses && a >= row.reference - 51.0f ? mass_of(t, n, a) : 0;
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
