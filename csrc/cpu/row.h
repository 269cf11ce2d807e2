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

// Writes the maxima of a tile's groups and returns the tile's. t is padded to whole chunks.
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
  float max_t = -INFINITY;
#pragma omp simd reduction(max : max_t)
  for (int g = 0; g < chunks * kLanes; ++g) max_t = group_max[g] > max_t ? group_max[g] : max_t;
  if (max_t > -0x1.fffffep127f) return max_t;
  // Clang starts a max reduction at the lowest finite value, so an empty tile is reduced again.
  max_t = -INFINITY;
  for (int g = 0; g < chunks * kLanes; ++g) max_t = std::max(max_t, group_max[g]);
  return max_t;
}

// What a mixture reports of the tile that it has written.
struct TileReport {
  bool finite;      // no NaN, no +inf
  bool clean;       // no -inf either
  bool has_maxima;  // `group_max` and `max_t` are written too
  float max_t;
  bool owner_below = false;  // see TileInputs
  float owner_max = NAN;
};

// The summary of some or all of a row's tiles.
struct RowSummary {
  float max_t = -INFINITY, reference = -INFINITY;
  bool finite = true;

  void add(const RowSummary& other) {
    max_t = std::max(max_t, other.max_t);
    reference = std::max(reference, other.reference);
    finite &= other.finite;
  }
};

// Fills one tile. `mixer(first, count, c, t, group_max)` writes its scaled logits. The mass is
// formed only where `masses` asks for it and the tile is not known to be shifted out (a_T < A -
// 51).
template <class Mixer>
inline void fill_tile(const Mixer& mixer, float c, bool masses, int64_t tile, float* t,
                      float* group_max, Row& row, RowSummary& summary) {
  const int64_t first = tile * kTile;
  const int n = tile_length(row.n, first);
  const TileReport report = mixer(first, n, c, t, group_max);
  const float max_t = report.has_maxima ? report.max_t : tile_maxima(t, n, group_max);
  const float a = floorf(max_t);
  row.tile_max[tile] = max_t;
  row.tile_reference[tile] = a;
  summary.finite &= report.finite;
  summary.max_t = max_t > summary.max_t ? max_t : summary.max_t;
  summary.reference = a > summary.reference ? a : summary.reference;
  // A NaN may hide the largest t, and masses are not defined above the reference.
  const bool counts = masses && report.finite && a > -INFINITY && a >= summary.reference - 51.0f;
  row.tile_mass[tile] = counts ? mass_of(t, n, a, report.clean) : 0;
}

inline void pad(Row& row) { std::fill(row.t + row.n, row.t + padded(row.n), -INFINITY); }

inline void finish_row(const RowSummary& summary, Row& row) {
  row.max_t = summary.max_t;
  row.reference = summary.reference;
  row.valid = summary.finite && summary.max_t > -INFINITY;
}

// For a mixture whose last tokens need the whole row: see special_tokens.h.
template <class Mixer>
void complete_row(const Mixer&, float, bool, Row&, RowSummary&) {}

template <class Mixer>
void fill_row(const Mixer& mixer, float c, bool masses, Row& row) {
  pad(row);
  RowSummary summary;
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    const int64_t first = tile * kTile;
    fill_tile(mixer, c, masses, tile, row.t + first, row.group_max + first / kLanes, row, summary);
  }
  complete_row(mixer, c, masses, row, summary);
  finish_row(summary, row);
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
