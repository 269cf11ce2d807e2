// The filters of a row, and the first of its rank, as one machine. Its states are few passes over
// the row apart; a loop around one `visit` instead of calls to it keeps that code, which is most of
// a kernel's, from being compiled a dozen times.
//
//   next -> estimate -> gather -> listed -> next             the usual row: a list, and a place in
//   it
//                          |         |
//                          +-> row <-+ -> bins -> range -> next   rows whose candidates do not fit
#ifndef EFT_CUDA_SEARCH_H_
#define EFT_CUDA_SEARCH_H_

#include "cuda/details.h"

namespace eft {
namespace {

__device__ __forceinline__ Search new_search(const RowTop& top, float c, bool complete) {
  Search s;
  s.goal = kStart;
  s.state = kNext;
  s.survivors = {{kLowestT, kLastId}, false};
  s.complete = complete;
  s.ranged = false;
  s.depth = 6.0f;
  s.done = 0;
  s.first = 0;
  s.hunt = hunt_for(1, false, top.t, top.reference);
  s.visit = {kNoPass, 0, 0, 0, s.hunt, s.survivors.limit, false, c};
  return s;
}

__device__ __forceinline__ void gather(Search& s, uint64_t low, uint64_t high, int most,
                                       State then) {
  s.visit.pass = kGather;
  s.visit.low = low;
  s.visit.high = high;
  s.visit.most = most;
  s.state = then;
}
__device__ __forceinline__ void gather_from(Search& s, float at_least, State then) {
  // Each group visited holds at least one token that is wanted.
  gather(s, 0, rank_key(fmaxf(at_least, kLowestT), kLastId), kList, then);
}
__device__ __forceinline__ void bin_row(Search& s) {
  s.visit.pass = kBin;
  s.visit.hunt = s.hunt;
  s.state = kBinned;
}

__device__ __forceinline__ void select(Search& s) {
  s.visit.pass = kSelect;
  s.visit.hunt = s.hunt;
  s.state = kSelected;
}

// top_k's and top_p's limit has been found in the list.
__device__ __forceinline__ void apply_limit(Search& s, uint64_t key) {
  if (s.goal == kTopK) {
    s.survivors.limit = {key_t(key), kLastId};  // ties stay
    if (s.ranged) return gather_from(s, key_t(key), kListTopK);
    s.survivors.listed = true;
  } else {
    s.survivors.limit = {key_t(key), key_id(key)};
    s.survivors.listed = !s.ranged;
  }
  s.state = kNext;
}

// A guess at a bound, and a gather above it.
__device__ __forceinline__ void estimate(const RowTop& top, Search& s) {
  if (s.complete) return gather(s, 0, rank_key(kLowestT, kLastId), 1 << 30, kGathered);
  if (s.goal == kTopP) {
    const float at_least = top.t - s.depth;
    s.depth += 6.0f;
    return gather_from(s, at_least, kGathered);
  }
  s.state = kInRow;
  if (s.hunt.left > (s.goal == kTopIds ? kList / 4 : kList)) return;
  s.visit.pass = kBound;
  s.visit.hunt = s.hunt;
  s.state = kBounded;
}

template <class Team>
__device__ __forceinline__ void after_bound(const Team& team, Search& s) {
  const int bin = team.lead->bin;
  if (bin < 0) {
    s.state = kInRow;  // fewer groups than tokens asked for
  } else {
    gather_from(s, bound_of_bin(s.hunt.top, bin), kGathered);
  }
}

template <class Team>
__device__ __forceinline__ void after_gather(const Team& team, Search& s) {
  const bool fits = team.lead->list_count <= kList;
  switch (s.state) {
    case kGathered:
      if (s.goal == kTopIds) {
        s.state = fits ? kBatch : kInRow;
      } else if (s.goal == kMinP) {
        s.survivors.listed = fits;
        s.state = kNext;
      } else {
        s.survivors.listed = fits && s.complete;
        s.state = fits ? kInList : kInRow;
      }
      break;
    case kListTopK:
      s.survivors.listed = fits;
      s.state = kNext;
      break;
    default: break;
  }
}

template <class Team>
__device__ __forceinline__ void after_select(const Team& team, Search& s) {
  if (team.lead->is_found) {
    const uint64_t key = team.lead->found;
    // What is to be written in order is gathered up to that key.
    if (s.goal == kTopIds) return gather(s, s.first, key, 1 << 30, kBatch);
    return apply_limit(s, key);
  }
  // Not reached: all survive, if all that survived so far was there to be looked at.
  const bool all = s.goal != kTopP || s.survivors.listed || s.complete;
  s.state = all ? kNext : s.depth <= 12.0f ? kEstimate : kInRow;
}

template <class Team>
__device__ __forceinline__ void after_bins(const Team& team, Search& s) {
  if (team.leads()) find_bin(team, s.hunt.left);
  team.sync();
  const int bin = team.lead->bin;
  if (bin < 0) {
    s.state = kNext;  // all survive
    if (s.goal == kTopIds) gather(s, s.first, ~uint64_t(0), 1 << 30, kBatch);
    return;
  }
  s.hunt.left -= team.lead->bin_above;
  const bool fits = team.lead->bin_count <= kList;
  narrow(s.hunt, bin);
  if (!fits) return bin_row(s);
  s.ranged = true;
  gather(s, s.hunt.low, s.hunt.high, 1 << 30, kInList);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_SEARCH_H_
