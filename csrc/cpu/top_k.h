// top_k and min_p: filters by t alone.
#ifndef EFT_CPU_TOP_K_H_
#define EFT_CPU_TOP_K_H_

#include "cpu/bracket.h"

namespace eft {
namespace {

inline void counts_above(const Row& row, const float* cuts, int64_t* above) {
  for (int j = 0; j < kCuts; ++j) {
    int32_t count = 0;
    const float cut = cuts[j];
    const int32_t n = int32_t(padded(row.n));
#pragma omp simd reduction(+ : count)
    for (int32_t i = 0; i < n; ++i) count += row.t[i] > cut;
    above[j] = count;
  }
}

// Thousands of tokens are kept: the k-th largest is bracketed. False where this does not lead
// there.
inline bool keep_wide_top_k(const Row& row, int64_t k, Survivors& s) {
  float cuts[kCuts];
  int64_t above[kCuts];
  if (!is_wide(row)) return false;
  if (!sample_cuts<false>(row, Bracket{}, double(k) / double(row.n), s.tokens, cuts)) return false;
  counts_above(row, cuts, above);
  int j = 0;  // the k-th largest lies at or below cuts[j - 1] and above cuts[j]
  while (j < kCuts && above[j] < k) ++j;
  const float high = j > 0 ? cuts[j - 1] : INFINITY;
  const float low = j < kCuts ? cuts[j] : -INFINITY;
  const int64_t place = k - (j > 0 ? above[j - 1] : 0);
  const int64_t count = gather_between(row, low, high, kMostBetween, s.tokens);
  if (count < place) return false;  // too many between, or fewer tokens than k
  std::nth_element(s.tokens, s.tokens + (place - 1), s.tokens + count, ByRank());
  s.shrink({key_t(s.tokens[place - 1].key), kLastId});
  return true;
}

// Everything at or above the k-th largest t.
inline void keep_top_k(const Row& row, int64_t k, float* values, Survivors& s) {
  if (k >= row.n || (k > 2 * kManyGroups && keep_wide_top_k(row, k, s))) return;
  // k tokens are at or above the k-th largest maximum, so the k-th largest token is no lower.
  const int64_t num_groups = padded(row.n) / kLanes;
  const bool by_tile = k <= num_tiles(row);
  const float* maxima = by_tile ? row.tile_max : row.group_max;
  const int64_t count = by_tile ? num_tiles(row) : num_groups;
  float at_least = -0x1.fffffep127f;
  if (k <= count) {
    std::copy(maxima, maxima + count, values);
    std::nth_element(values, values + (k - 1), values + count, std::greater<float>());
    at_least = std::max(at_least, values[k - 1]);
  }
  s.count = gather(row, at_least, s.tokens);
  if (s.count < k) return;
  std::nth_element(s.tokens, s.tokens + (k - 1), s.tokens + s.count, ByRank());
  s.shrink({key_t(s.tokens[k - 1].key), kLastId});
}

inline void keep_min_p(const Row& row, float offset, Survivors& s) {
  const float at_least = row.max_t + offset;
  if (!(at_least > -INFINITY)) return;
  // A list is worth its while only for few.
  if (!s.listed() && num_groups_from(row, at_least) <= kManyGroups) {
    s.count = gather(row, at_least, s.tokens);
  }
  s.shrink({at_least, kLastId});
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_TOP_K_H_
