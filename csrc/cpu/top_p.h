// top_p: keeps a token iff the mass ranked above it is below the target (numerics.md §4). The
// cutoff is looked for among the tokens a few powers of two below the maximum; where these are
// many, among those that a sample points at. All sums are exact: a misleading sample costs time,
// never a token.
#ifndef EFT_CPU_TOP_P_H_
#define EFT_CPU_TOP_P_H_

#include "cpu/split_row.h"

namespace eft {
namespace {

// The number of tokens kept among those that tie at a closed bracket's end: those whose mass above
// is below the target.
inline uint64_t num_ties_kept(const Row& row, const Bracket& b, uint64_t target) {
  const uint64_t each = token_mass(b.high, row.reference);
  return (target - b.above + each - 1) / each;
}

inline Cutoff cutoff_in_list(const Row& row, const Bracket& b, uint64_t target,
                             const TokenList& list, float guess) {
  const Bracket end = close_bracket<true>(b, list, target, guess);
  const uint64_t ties = num_ties_kept(row, end, target);
  return {end.high, list.id[nth_equal(list.t, list.count, end.high, ties)]};
}

// Keeps the nucleus of a list of all tokens above `low`. False where its mass does not reach the
// target.
inline bool keep_listed_nucleus(const Row& row, uint64_t target, float low, float guess,
                                Survivors& s) {
  weigh(s.tokens, row.reference);
  const uint64_t mass = weigh_listed_above(s.tokens, low).measure;
  if (mass < target) return false;
  s.listed = true;
  s.apply(cutoff_in_list(row, {low, row.max_t, mass, 0}, target, s.tokens, guess));
  return true;
}

// The mass above a cut at the row's reference, from that by tile at the tiles' own (`above`).
inline uint64_t mass_at_reference(const Row& row, float cut, const uint64_t* above) {
  uint64_t total = 0;
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    if (above[tile] == 0) continue;
    const int64_t first = tile * kTile;
    const float a = row.tile_reference[tile];
    const int shift = tile_shift(row.reference, a);
    const uint64_t lost =
        shift == 0 ? 0 : mass_lost_above(row.t + first, tile_length(row.n, first), a, shift, cut);
    total += (above[tile] - lost) >> shift;
  }
  return total;
}

// Writes the mass above a cut by tile at the tiles' references, and returns that at the row's.
inline uint64_t row_mass_above(const Row& row, float cut, uint64_t* above) {
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    const int64_t first = tile * kTile;
    const float a = row.tile_reference[tile];
    const bool counts = row.tile_max[tile] > cut && a >= row.reference - 51.0f;
    above[tile] = counts ? mass_above(row.t + first, tile_length(row.n, first), a, cut) : 0;
  }
  return mass_at_reference(row, cut, above);
}

// A cutoff whose last tie is the nth of the list's tokens at `t`, and that token's index in
// the list.
struct ListedCutoff {
  Cutoff cutoff;
  int64_t list_index;
};
inline ListedCutoff cutoff_between(const Row& row, const TokenList& list, float t, uint64_t nth) {
  const int64_t list_index = nth_equal(list.t, list.count, t, nth);
  const uint32_t* const starts = list.id;
  const int64_t tile = std::upper_bound(starts, starts + num_tiles(row), list_index) - starts - 1;
  uint64_t in_tile = 0;
  for (int64_t i = starts[tile]; i <= list_index; ++i) in_tile += list.t[i] == t;
  const int64_t first = tile * kTile;
  const int64_t id = first + nth_equal(row.t + first, tile_length(row.n, first), t, in_tile);
  return {{t, uint32_t(id)}, list_index};
}

// Too many tokens to list: those above `e.high` are weighed at the tiles' references, those between
// the ends listed. At the row's reference each of the former loses less than a unit. The loss is
// summed only where it could move the cutoff: at once where so many units come near a token's mass,
// else when it turns out to matter. False where the cutoff is not between the ends.
inline bool keep_wide_nucleus(Row& row, uint64_t target, const Estimate& e, uint64_t* above,
                              Survivors& s) {
  TokenList& list = s.tokens;
  const float highest = std::min(e.high, row.max_t);  // an estimate may lie above all tokens
  const bool likely =
      e.high < INFINITY && uint64_t(e.num_above) * 24 > token_mass(highest, row.reference);
  RowAboveCut over = likely ? split_by_mass<true>(row, e.low, e.high, above, list)
                            : split_by_mass<false>(row, e.low, e.high, above, list);
  weigh(list, row.reference);
  const uint64_t between = weigh_listed_above(list, e.low).measure;
  for (;;) {
    if (over.mass + between < target || over.mass >= target + over.slack) return false;
    if (over.mass < target) {
      Bracket end = close_bracket<true>({e.low, e.high, over.mass + between, over.mass}, list,
                                        target, INFINITY);
      const uint64_t ties = num_ties_kept(row, end, target);
      end.above -= over.slack;
      if (num_ties_kept(row, end, target) == ties) {
        const ListedCutoff found = cutoff_between(row, list, end.high, ties);
        keep_between(row, found.cutoff, found.list_index, above, s);
        return true;
      }
    }
    if (over.slack == 0) return false;
    over.mass = mass_at_reference(row, e.high, above);
    over.slack = 0;
  }
}

// Finds the cutoff alone, from a list of all tokens above `e.low`. False where their mass does not
// reach the target.
inline bool keep_unweighed_nucleus(const Row& row, uint64_t target, const Estimate& e,
                                   Survivors& s) {
  TokenList& list = s.tokens;
  split_by_count(row, e.low, INFINITY, list);
  weigh(list, row.reference);
  const uint64_t mass = weigh_listed_above(list, e.low).measure;
  if (mass < target) return false;
  const Bracket end = close_bracket<true>({e.low, row.max_t, mass, 0}, list, target, e.high);
  s.apply(cutoff_between(row, list, end.high, num_ties_kept(row, end, target)).cutoff);
  return true;
}

// Finds the cutoff by bisection, one pass over the row each time: for rows that no sample
// describes, such as ties.
inline void keep_bisected_nucleus(const Row& row, uint64_t target, uint64_t* above, Survivors& s) {
  Bracket b{-INFINITY, row.max_t, row_mass_above(row, -INFINITY, above), 0};
  if (b.at_low < target) return;  // the whole row stays
  int64_t from_low = row.n, from_high = 0;
  while (!b.closed() && from_low - from_high > kMaxListed) {
    const float cut = b.middle();
    b.narrow(cut, row_mass_above(row, cut, above), target);
    (b.low == cut ? from_low : from_high) = int64_t(count_above(row.t, row.n, cut));
  }
  if (b.closed()) {
    const uint64_t ties = num_ties_kept(row, b, target);
    s.apply({b.high, uint32_t(nth_equal(row.t, row.n, b.high, ties))});
    return;
  }
  list_between(row, b.low, b.high, s.tokens);
  weigh(s.tokens, row.reference);
  s.apply(cutoff_in_list(row, b, target, s.tokens, INFINITY));
}

// Applies top_p to the survivors, whose masses row.tile_mass holds. `above` is scratch, one entry a
// tile. `weighed`: the new survivors' masses will be needed.
inline void keep_top_p(Row& row, uint64_t p_fix, uint64_t* above, Survivors& s,
                       bool weighed = true) {
  const uint64_t mass = total_mass(row);
  // Rank 0 stays even where p is 0, as it does for a target of one unit.
  const uint64_t target = std::max(mass_target(p_fix, mass), uint64_t(1));
  if (s.listed) {
    keep_listed_nucleus(row, target, -INFINITY, INFINITY, s);
    return;
  }
  for (float depth : {6.0f, 9.0f, 13.0f}) {
    const float low = row.max_t - depth;
    if (!(low < row.max_t) ||
        num_groups_from(row, low) > (is_wide(row) ? kMaxListedGroupsWide : kMaxListedGroups)) {
      break;
    }
    list_between(row, low, INFINITY, s.tokens);
    if (keep_listed_nucleus(row, target, low, INFINITY, s)) return;
  }
  if (!is_wide(row)) {
    list_between(row, -INFINITY, INFINITY, s.tokens);
    keep_listed_nucleus(row, target, -INFINITY, INFINITY, s);
    return;
  }
  Estimate e = Sample(row, true).estimate_cutoff(float(target) * 0x1p-40f, float(mass) * 0x1p-40f);
  // A sample misses the mass of a few heavy tokens: where the nucleus is small its estimate is too
  // high, or there is none.
  const float deep = row.max_t - 13.0f;
  const bool is_short = num_groups_from(row, deep) <= kMaxListedGroups;
  if (!(e.low > -INFINITY)) {
    e = {deep, INFINITY, is_short ? 0 : kMaxListed + 1};
  } else if (is_short && deep < e.low && e.num_above <= kMaxListed) {
    e.low = deep;
  }
  // A longer list without ids costs less than weighing what is above it.
  if (!weighed && e.num_above <= 4 * kMaxListed && keep_unweighed_nucleus(row, target, e, s)) {
    return;
  }
  if (e.num_above <= kMaxListed) {
    list_between(row, e.low, INFINITY, s.tokens);
    if (keep_listed_nucleus(row, target, e.low, e.high, s)) return;
  } else if (keep_wide_nucleus(row, target, e, above, s)) {
    return;
  }
  for (float further : {4.0f, 12.0f}) {
    if (keep_wide_nucleus(row, target, {e.low - further, INFINITY, 0}, above, s)) return;
  }
  keep_bisected_nucleus(row, target, above, s);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_TOP_P_H_
