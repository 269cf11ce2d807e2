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

// The masses above `high`, by tile at the tiles' references (`above`).
struct AboveAll {
  uint64_t tokens;
  uint64_t shifted;  // of them, those in tiles of another reference than the row's
};
inline AboveAll split_by_mass(const Row& row, float low, float high, uint64_t* above,
                              Picked& list) {
  list.count = 0;
  AboveAll all{};
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    list.id[tile] = uint32_t(list.count);
    above[tile] = 0;
    const float a = row.tile_reference[tile];
    if (!(row.tile_max[tile] > low && a >= row.reference - 51.0f)) continue;
    const int64_t first = tile * kTile;
    const Above over =
        split_tile_by_mass(row.t + first, tile_length(row.n, first), a, low, high, list);
    above[tile] = over.measure;
    all.tokens += over.tokens;
    all.shifted += a == row.reference ? 0 : over.tokens;
  }
  end_list(list, list.count);
  return all;
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

// Of n tokens of a weighed list, the mass at a reference `shift` below the list's of those with
// t > cut, or t = cut and i <= last. Shares scale exactly.
inline uint64_t listed_mass(const float* t, const float* share, int n, int shift, float cut,
                            int last) {
  const float scale = bit_cast<float>((127 + shift) << 23);
#ifdef EFT_LANES
  LaneSum sum;
  const Lanes limit = splat(cut), nearer = splat(scale);
  for (int i = 0; i < n; i += 16) {
    const Lanes x = load(t + i);
    const LaneMask tied = and_(equal(x, limit), first_lanes(last + 1 - i));
    const LaneMask inside = and_(or_(above(x, limit), tied), first_lanes(n - i));
    sum.add(LaneMasses(mul(load(share + i), nearer)), inside);
  }
  return sum.total();
#else
  uint64_t sum = 0;
  for (int i = 0; i < n; ++i) {
    const SplitMass mass(share[i] * scale);
    const bool inside = t[i] > cut || (t[i] == cut && i <= last);
    sum += inside ? (uint64_t(uint32_t(mass.high)) << 17) + uint32_t(mass.low) : 0;
  }
  return sum;
#endif
}

// The survivors' masses by tile: those above the cuts, and of a weighed list by tiles those above
// `cut` or, at the cut, up to `place`.
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
        listed_mass(list.t + first, list.share + first, n,
                    tile_shift(row.reference, row.tile_reference[tile]), cut, last);
  }
}

// Keeps what is within a limit that was found in a weighed list by tiles, whose last token within
// it is at `place`.
inline void keep_between(Row& row, const Limit& limit, int64_t place, const uint64_t* above,
                         Survivors& s) {
  s.shrink(limit);
  if (s.limit.t != limit.t || s.limit.id != limit.id) return;  // a filter before had cut deeper
  add_between(s.tokens, limit.t, place, above, row);
  s.masses_known = true;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_WIDE_H_
