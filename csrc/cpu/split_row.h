// Splits a row that has too many candidates to list, by two cuts in one pass: the tokens above both
// are measured, those between are listed.
#ifndef EFT_CPU_SPLIT_ROW_H_
#define EFT_CPU_SPLIT_ROW_H_

#include "cpu/cutoff_estimate.h"

namespace eft {
namespace {

// Appends a tile's tokens with low < t <= high.
inline void append_scalar(const float* t, int n, float low, float high, TokenList& list) {
  int64_t count = list.count;
  for (int i = 0; i < n; ++i) {
    list.t[count] = t[i];
    count += (t[i] > low) & (t[i] <= high);
  }
  list.count = count;
}

// How much of a tile lies above a cut.
struct TileAboveCut {
  uint64_t tokens, mass;  // mass at the tile's reference
  uint64_t lost;          // the part of it that is lost at the row's (`mass_lost_above`)
};

// Measures the tokens above `high` and appends those between. `kLost`: also forms `lost`.
template <bool kLost>
inline TileAboveCut split_tile_by_mass(const float* t, int n, float a, int shift, float low,
                                       float high, TokenList& list) {
#ifdef EFT_SIMD
  if (is_exact_reference(a)) {
    LaneSum sum, lost;
    int tokens = 0;
    const Lanes from = splat(low), to = splat(high);
    const LowBits low_bits(shift);
    float* out = list.t + list.count;
    for_each_share<true>(t, n, a, [&](int i, Lanes w) {  // the mask drops what -inf becomes
      const LaneMasses masses(w);
      const Lanes x = load(t + i);
      const LaneMask over = above(x, to);
      sum.add(masses, over);
      if (kLost) lost.add(LaneMasses(masses, low_bits), over);
      tokens += count(over);
      out += append(out, x, and_not(above(x, from), over));
    });
    list.count = out - list.t;
    return {uint64_t(tokens), sum.total(), lost.total()};
  }
#endif
  append_scalar(t, n, low, high, list);
  return {count_above(t, n, high), mass_above(t, n, a, high),
          kLost ? mass_lost_above(t, n, a, shift, high) : 0};
}

// Counts a tile's tokens above `high` and appends those between.
inline uint64_t split_tile_by_count(const float* t, int n, float low, float high, TokenList& list) {
#ifdef EFT_SIMD
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
  append_scalar(t, n, low, high, list);
  return count_above(t, n, high);
#endif
}

// Both passes list tokens without ids: `list.id` holds where each tile's tokens begin instead.

// How much of a row lies above a cut. The mass at the row's reference is below `mass` by less than
// `slack`; a slack of 0 means exactly `mass`.
struct RowAboveCut {
  uint64_t tokens, mass, slack;
};

// Also writes the masses by tile, at the tiles' own references (`above`).
template <bool kExact>
inline RowAboveCut split_by_mass(const Row& row, float low, float high, uint64_t* above,
                                 TokenList& list) {
  list.count = 0;
  RowAboveCut all{};
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    list.id[tile] = uint32_t(list.count);
    above[tile] = 0;
    const float a = row.tile_reference[tile];
    if (!(row.tile_max[tile] > low && a >= row.reference - 51.0f)) continue;
    const int64_t first = tile * kTile;
    const int shift = tile_shift(row.reference, a);
    const TileAboveCut over = split_tile_by_mass<kExact>(row.t + first, tile_length(row.n, first),
                                                         a, shift, low, high, list);
    above[tile] = over.mass;
    all.tokens += over.tokens;
    all.mass += (over.mass - over.lost) >> shift;
    all.slack += kExact || shift == 0 ? 0 : over.tokens;
  }
  end_list(list, list.count);
  return all;
}

inline uint64_t split_by_count(const Row& row, float low, float high, TokenList& list) {
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

// The mass, at a reference `shift` below the list's, of those of n tokens of a weighed list with
// t > cut, or t = cut and i <= last. Scaling a share by a power of two is exact.
inline uint64_t listed_mass(const float* t, const float* share, int n, int shift, float cut,
                            int last) {
  const float scale = bit_cast<float>((127 + shift) << 23);
#ifdef EFT_SIMD
  LaneSum sum;
  const Lanes threshold = splat(cut), nearer = splat(scale);
  for (int i = 0; i < n; i += 16) {
    const Lanes x = load(t + i);
    const LaneMask tied = and_(equal(x, threshold), first_lanes(last + 1 - i));
    const LaneMask inside = and_(or_(above(x, threshold), tied), first_lanes(n - i));
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

// Writes the survivors' masses by tile: those above both cuts, and those listed above `cut` or, at
// the cut, up to `list_index`.
inline void add_between(const TokenList& list, float cut, int64_t list_index, const uint64_t* above,
                        Row& row) {
  const int64_t last_tile = num_tiles(row) - 1;
  for (int64_t tile = 0; tile <= last_tile; ++tile) {
    const int64_t first = list.id[tile];
    const int n = int((tile < last_tile ? int64_t(list.id[tile + 1]) : list.count) - first);
    const int last = int(std::max<int64_t>(-1, std::min<int64_t>(list_index - first, n)));
    row.tile_mass[tile] = above[tile];
    if (n == 0) continue;
    row.tile_mass[tile] +=
        listed_mass(list.t + first, list.share + first, n,
                    tile_shift(row.reference, row.tile_reference[tile]), cut, last);
  }
}

// Applies a cutoff that was found in a weighed list by tiles, whose last kept token is at
// `list_index`.
inline void keep_between(Row& row, const Cutoff& cutoff, int64_t list_index, const uint64_t* above,
                         Survivors& s) {
  s.apply(cutoff);
  if (s.cutoff.t != cutoff.t || s.cutoff.id != cutoff.id)
    return;  // an earlier filter's cutoff is stricter
  add_between(s.tokens, cutoff.t, list_index, above, row);
  s.masses_known = true;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SPLIT_ROW_H_
