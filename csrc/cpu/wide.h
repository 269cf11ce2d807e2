// A row of which too many tokens are candidates, parted by two cuts in one pass: what lies above
// both is measured, what lies between is listed.
#ifndef EFT_CPU_WIDE_H_
#define EFT_CPU_WIDE_H_

#include "cpu/bracket.h"

namespace eft {
namespace {

// Appends a tile's tokens with low < t <= high.
inline void append_plain(const float* t, int n, float low, float high, Picked& list) {
  int64_t count = list.count;
  for (int i = 0; i < n; ++i) {
    list.t[count] = t[i];
    count += (t[i] > low) & (t[i] <= high);
  }
  list.count = count;
}

// What of a tile lies above `high`, weighed at the tile's reference; what lies between is appended.
inline Above split_tile_by_mass(const float* t, int n, float a, float low, float high,
                                Picked& list) {
#ifdef EFT_LANES
  if (is_near(a)) {
    LaneSum sum;
    int tokens = 0;
    const Lanes from = splat(low), to = splat(high);
    float* out = list.t + list.count;
    for_each_share<true>(t, n, a, [&](int i, Lanes w) {  // what -inf comes to is masked out
      const Lanes x = load(t + i);
      const LaneMask over = above(x, to);
      sum.add(LaneMasses(w), over);
      tokens += count(over);
      out += append(out, x, and_not(above(x, from), over));
    });
    list.count = out - list.t;
    return {uint64_t(tokens), sum.total()};
  }
#endif
  append_plain(t, n, low, high, list);
  return {count_above(t, n, high), mass_above(t, n, a, high)};
}

// How many of a tile are above `high`; what lies between is appended.
inline uint64_t split_tile_by_count(const float* t, int n, float low, float high, Picked& list) {
#ifdef EFT_LANES
  int tokens = 0;
  const Lanes from = splat(low), to = splat(high);
  float* out = list.t + list.count;
  for (int i = 0; i < n; i += 16) {
    const Lanes x = load(t + i);
    const LaneMask over = above(x, to);
    tokens += count(over);
    out += append(out, x, and_not(above(x, from), over));
  }
  list.count = out - list.t;
  return uint64_t(tokens);
#else
  append_plain(t, n, low, high, list);
  return count_above(t, n, high);
#endif
}

// Both passes list without ids. The ids' place holds where each tile's tokens begin instead.

// The masses above `high`, by tile at the tiles' references (`above`). How many tokens above it are
// in tiles of another reference than the row's.
inline uint64_t split_by_mass(const Row& row, float low, float high, uint64_t* above,
                              Picked& list) {
  list.count = 0;
  uint64_t shifted = 0;
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    list.id[tile] = uint32_t(list.count);
    above[tile] = 0;
    const float a = row.tile_reference[tile];
    if (!(row.tile_max[tile] > low && a >= row.reference - 51.0f)) continue;
    const int64_t first = tile * kTile;
    const Above over =
        split_tile_by_mass(row.t + first, tile_length(row.n, first), a, low, high, list);
    above[tile] = over.measure;
    shifted += a == row.reference ? 0 : over.tokens;
  }
  end_list(list, list.count);
  return shifted;
}

inline uint64_t split_by_count(const Row& row, float low, float high, Picked& list) {
  list.count = 0;
  uint64_t before = 0;
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    list.id[tile] = uint32_t(list.count);
    if (!(row.tile_max[tile] > low)) continue;
    const int64_t first = tile * kTile;
    before += split_tile_by_count(row.t + first, tile_length(row.n, first), low, high, list);
  }
  end_list(list, list.count);
  return before;
}

// The survivors' masses by tile: those above the cuts, and of a list by tiles those above `cut` or,
// at the cut, up to `place`.
inline void add_between(const Picked& list, float cut, int64_t place, const uint64_t* above,
                        Row& row) {
  const int64_t last_tile = num_tiles(row) - 1;
  for (int64_t tile = 0; tile <= last_tile; ++tile) {
    const int64_t first = list.id[tile];
    const int n = int((tile < last_tile ? int64_t(list.id[tile + 1]) : list.count) - first);
    const int last = int(std::max<int64_t>(-1, std::min<int64_t>(place - first, n)));
    row.tile_mass[tile] = above[tile];
    if (n == 0) continue;
    row.tile_mass[tile] +=
        mass_within<false>(list.t + first, n, row.tile_reference[tile], cut, last);
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_WIDE_H_
