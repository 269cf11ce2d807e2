// top_k: keeps t >= the k-th largest t; all of its ties stay (`kAllTies`; numerics.md §4).
#ifndef EFT_CPU_TOP_K_H_
#define EFT_CPU_TOP_K_H_

#include "cpu/split_row.h"

namespace eft {
namespace {

// Keeps everything at or above the k-th largest of a list of all tokens above `low`. False where
// the list is shorter than k.
inline bool keep_listed_top_k(const Row& row, int64_t k, float low, float guess, Survivors& s) {
  const TokenList& list = s.tokens;
  if (list.count < k) return false;
  const Bracket b{low, row.max_t, uint64_t(list.count), 0};
  s.listed = true;
  s.apply({close_bracket<false>(b, list, uint64_t(k), guess).high, kAllTies});
  return true;
}

// Too many to list: the k-th largest is looked for between the ends of the estimate, and bracketed
// by counting where it is not there. Weighing in the same pass costs a quarter more than counting
// and saves a pass afterwards.
inline void keep_wide_top_k(Row& row, int64_t k, const Estimate& e, uint64_t* above, Survivors& s) {
  const uint64_t goal = uint64_t(k);
  // Only tiles that have mass are weighed, but all are counted.
  const bool weighed = above && e.low >= row.reference - 51.0f;
  const uint64_t before = weighed ? split_by_mass<false>(row, e.low, e.high, above, s.tokens).tokens
                                  : split_by_count(row, e.low, e.high, s.tokens);
  const uint64_t from_low = before + uint64_t(s.tokens.count);
  if (before < goal && goal <= from_low) {
    const Bracket b{e.low, e.high, from_low, before};
    const Cutoff cutoff{close_bracket<false>(b, s.tokens, goal, INFINITY).high, kAllTies};
    if (!weighed) return s.apply(cutoff);
    weigh(s.tokens, row.reference);
    return keep_between(row, cutoff, s.tokens.count, above, s);
  }
  Bracket b{-INFINITY, row.max_t, count_above(row.t, row.n, -INFINITY), 0};
  if (b.at_low < goal) return;  // fewer than k
  while (!b.closed() && b.at_low - b.above > uint64_t(kMaxListed)) {
    const float cut = b.middle();
    b.narrow(cut, count_above(row.t, row.n, cut), goal);
  }
  if (!b.closed()) {
    list_between(row, b.low, b.high, s.tokens);
    b = close_bracket<false>(b, s.tokens, goal, INFINITY);
  }
  s.apply({b.high, kAllTies});
}

// `maxima` and `above` are scratch, one entry a tile; without `above` the survivors' masses are not
// formed.
inline void keep_top_k(Row& row, int64_t k, float* maxima, uint64_t* above, Survivors& s) {
  if (k >= row.n) return;
  if (k <= num_tiles(row)) {
    // k tokens are at or above the k-th largest maximum, so the k-th largest token is no lower.
    std::copy(row.tile_max, row.tile_max + num_tiles(row), maxima);
    std::nth_element(maxima, maxima + (k - 1), maxima + num_tiles(row), std::greater<float>());
    const float at_least = std::max(maxima[k - 1], -0x1.fffffep127f);
    if (num_groups_from(row, at_least) <= kMaxListedGroups) {
      const float low = next_below(at_least);
      list_between(row, low, INFINITY, s.tokens);
      if (keep_listed_top_k(row, k, low, INFINITY, s)) return;
    }
  }
  if (!is_wide(row)) {
    list_between(row, -INFINITY, INFINITY, s.tokens);
    keep_listed_top_k(row, k, -INFINITY, INFINITY, s);
    return;
  }
  const Estimate e = Sample(row, false).estimate_cutoff(float(k), float(row.n));
  if (e.num_above <= kMaxListed) {
    list_between(row, e.low, INFINITY, s.tokens);
    if (keep_listed_top_k(row, k, e.low, e.high, s)) return;
  }
  keep_wide_top_k(row, k, e, above, s);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_TOP_K_H_
