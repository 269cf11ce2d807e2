// The filters in their order: top_k, top_p, min_p (numerics.md §4). A new filter is a file
// beside theirs, an option in common/row_options.h and a line in each function below.
#ifndef EFT_CPU_FILTERS_H_
#define EFT_CPU_FILTERS_H_

#include "common/row_options.h"
#include "cpu/min_p.h"
#include "cpu/top_k.h"
#include "cpu/top_p.h"

namespace eft {
namespace {

inline Survivors filter(const RowOptions& o, Row& row, Scratch& scratch) {
  Survivors s{Cutoff{}, scratch.token_list()};
  if (o.top_k > 0) keep_top_k(row, o.top_k, scratch.maxima(), scratch.above(), s);
  if (o.top_p < kWhole) {
    if (o.top_k > 0) survivor_masses(s, row);
    keep_top_p(row, o.top_p, scratch.above(), s);
  }
  keep_min_p(row, o.min_p_offset, s);
  return s;
}

// True where all filters are off.
inline bool unfiltered(const RowOptions& o) {
  return o.top_k == 0 && o.top_p == kWhole && o.min_p_offset == -INFINITY;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_FILTERS_H_
