// top_p where the nucleus is wide: thousands of candidates, as in flat rows. Gathering and
// partitioning them all takes twenty times as long as reading the row, so the boundary is bracketed
// first: a sample says where it should be, one pass over the row sums the mass above four cuts
// around that place, and only the tokens between the two cuts that hold the boundary are ranked.
// Every sum is exact; a sample that misleads costs time, never a token.
#ifndef EFT_CPU_NUCLEUS_H_
#define EFT_CPU_NUCLEUS_H_

#include "cpu/bracket.h"

namespace eft {
namespace {

// above[tile][j] = mass, at the row's reference, of the tile's tokens with t > cuts[j].
inline void row_masses_above(const Row& row, const float* cuts, uint64_t (*above)[kCuts]) {
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    const int64_t first = tile * kTile;
    const int n = int(padded(tile_length(row.n, first)));
    masses_above(row.t + first, n, row.reference, cuts, above[tile]);
  }
}

// Of the tokens that tie at t, each of the same mass, the ids are kept in order until `target` is
// reached.
inline Limit tie_limit(const Row& row, float t, uint64_t target) {
  uint64_t left = (target + token_mass(t, row.reference) - 1) / token_mass(t, row.reference);
  for (int64_t i = 0;; ++i) {
    if (row.t[i] == t && --left == 0) return {t, uint32_t(i)};
  }
}

// The survivors' tile masses: what lies above the cut is summed already, in all tiles whose
// reference is the row's; the tokens between the cuts are at hand.
inline void nucleus_masses(const uint64_t (*above)[kCuts], int cut, const Candidate* between,
                           int64_t count, const Limit& limit, Row& row) {
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    const bool summed = row.tile_reference[tile] == row.reference;
    row.tile_mass[tile] = !summed   ? kept_tile_mass(row, tile, limit)
                          : cut < 0 ? 0
                                    : above[tile][cut];
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t tile = key_id(between[i].key) / kTile;
    if (row.tile_reference[tile] != row.reference) continue;
    const bool kept = keeps(limit, key_t(between[i].key), key_id(between[i].key));
    row.tile_mass[tile] += kept ? between[i].mass : 0;
  }
}

// Sums the mass above four cuts within the bracket, which holds the limit and `mass`, and narrows
// it to between two of them. `before` is the mass above the bracket. Returns the cut at its upper
// end, -1 if that did not move, -2 where the sample leads nowhere.
inline int narrow(const Row& row, uint64_t target, uint64_t (*above)[kCuts], Candidate* sample,
                  Bracket& bracket, uint64_t& before, uint64_t& mass) {
  float cuts[kCuts];
  const double p = double(target - before) / double(mass);
  if (!sample_cuts<true>(row, bracket, p, sample, cuts)) return -2;
  row_masses_above(row, cuts, above);
  uint64_t total[kCuts] = {};
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    for (int j = 0; j < kCuts; ++j) total[j] += above[tile][j];
  }
  const uint64_t end = before + mass;
  int j = 0;  // the limit lies at or below cuts[j - 1] and above cuts[j]
  while (j < kCuts && total[j] < target) ++j;
  if (j > 0) bracket.high = cuts[j - 1], before = total[j - 1];
  if (j < kCuts) bracket.low = cuts[j];
  mass = (j < kCuts ? total[j] : end) - before;
  return j - 1;
}

// Keeps the nucleus of `target` within all of the row; false where this way does not lead there.
inline bool keep_wide_nucleus(Row& row, uint64_t target, uint64_t mass, uint64_t (*above)[kCuts],
                              Survivors& s) {
  if (!is_wide(row)) return false;
  Bracket bracket;
  uint64_t before = 0;
  for (int round = 0; round < 4; ++round) {
    const int cut = narrow(row, target, above, s.tokens, bracket, before, mass);
    if (cut == -2) return false;
    const int64_t count = gather_between(row, bracket.low, bracket.high, kMostBetween, s.tokens);
    if (count < 0) continue;
    if (before + mass_of(s.tokens, count) < target) return false;  // all the row is kept
    s.shrink(nucleus_limit(s.tokens, count, target - before));
    // Unless top_k had cut deeper already, or the upper end is an earlier round's.
    if (s.limit.t <= bracket.high && (cut >= 0 || bracket.high == INFINITY)) {
      nucleus_masses(above, cut, s.tokens, count, s.limit, row);
      s.masses_known = true;
    }
    return true;
  }
  if (bracket.high == INFINITY) return false;
  // What no cut can part are ties.
  uint64_t ties = 0;
  for (int64_t i = 0; i < row.n; ++i) ties += row.t[i] == bracket.high;
  if (before + ties * token_mass(bracket.high, row.reference) < target) return false;
  s.shrink(tie_limit(row, bracket.high, target - before));
  return true;
}

// Powers of two below the maximum that usually hold the nucleus.
constexpr float kUsualDepth = 6.0f;

// top_p over the survivors, whose masses row.tile_mass holds. `above` is scratch, one entry a tile.
inline void keep_top_p(Row& row, uint64_t p_fix, uint64_t (*above)[kCuts], Survivors& s) {
  const uint64_t mass = total_mass(row);
  // Rank 0 stays even where p is 0, as it does for a target of one unit.
  const uint64_t target = std::max(mass_target(p_fix, mass), uint64_t(1));
  if (s.listed()) {
    if (mass_of(s.tokens, s.count) >= target) s.shrink(nucleus_limit(s.tokens, s.count, target));
    return;
  }
  // The nucleus usually lies a few powers of two below the maximum: widen until its mass is there.
  bool tried = false;
  for (float depth : {kUsualDepth, 8.0f, 11.0f, 16.0f, 24.0f, 48.0f}) {
    if (!tried && num_groups_from(row, row.max_t - depth) > kManyGroups) {
      tried = true;
      if (keep_wide_nucleus(row, target, mass, above, s)) return;
    }
    const int64_t count = gather(row, row.max_t - depth, s.tokens);
    if (mass_of(s.tokens, count) < target) continue;
    s.count = count;
    s.shrink(nucleus_limit(s.tokens, count, target));
    return;
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_NUCLEUS_H_
