// min_p: keeps t >= M + log2(min_p), M the row's largest t (numerics.md §4).
#ifndef EFT_CPU_MIN_P_H_
#define EFT_CPU_MIN_P_H_

#include "cpu/cutoff_estimate.h"

namespace eft {
namespace {

inline void keep_min_p(const Row& row, float offset, Survivors& s) {
  const float at_least = row.max_t + offset;
  if (!(at_least > -INFINITY)) return;
  // A list is worth making only if it is short.
  if (!s.listed && num_groups_from(row, at_least) <= kMaxListedGroups) {
    list_between(row, next_below(at_least), INFINITY, s.tokens);
    s.listed = true;
  }
  s.apply({at_least, kAllTies});
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_MIN_P_H_
