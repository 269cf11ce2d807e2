// What the filters of a row leave, before anything is drawn from it.
#ifndef EFT_CPU_FILTER_H_
#define EFT_CPU_FILTER_H_

#include "cpu/with_mixture.h"

namespace eft {
namespace {

inline Survivors filter(const RowOptions& o, Row& row, Scratch& scratch) {
  Survivors s{Limit{}, scratch.picked()};
  if (o.top_k > 0) keep_top_k(row, o.top_k, scratch.maxima(), scratch.above(), s);
  if (o.top_p < kWhole) {
    if (o.top_k > 0) survivor_masses(s, row);
    keep_top_p(row, o.top_p, scratch.above(), s);
  }
  keep_min_p(row, o.min_p_offset, s);
  return s;
}

inline bool unfiltered(const RowOptions& o) {
  return o.top_k == 0 && o.top_p == kWhole && o.min_p_offset == -INFINITY;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_FILTER_H_
