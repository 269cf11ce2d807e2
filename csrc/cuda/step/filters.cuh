// The filters of a row, and the first of its rank, as a machine that one thread thinks through,
// from pass to pass; what the passes do is in passes.h. (A loop around one copy of each pass,
// instead of calls to them, keeps the code, which is most of a kernel's, from being compiled a
// dozen times, and the thoughts out of the registers.)
//
//   next -> estimate -> gathered -> in list -> selected -> next     the usual row
//              ^            |                     |
//              +------------|---- deeper ---------+
//                           +-> in row <----------+  rows whose candidates do not fit:
//                                 +-> binned -> placed -> (again, or) in list -> selected -> next
#ifndef EFT_CUDA_STEP_FILTERS_CUH_
#define EFT_CUDA_STEP_FILTERS_CUH_

#include "cuda/common/plan.cuh"
#include "cuda/step/rank_query.cuh"

namespace eft {
namespace {

constexpr int kAll = 1 << 30;

__device__ __forceinline__ void start_search(RowWork& w, const RowTop& top, bool complete) {
  Search& s = w.search;
  w.top = top;
  s.goal = kStart;
  s.state = kNext;
  s.survivors = {{kLowestT, kLastId}, false};
  s.complete = complete;
  s.ranged = false;
  s.depth = 6.0f;
  s.done = 0;
  s.first = 0;
  s.visit.pass = kNoPass;
  s.visit.c = w.options.scale;
}

__device__ __forceinline__ void then(Search& s, Pass pass, State state) {
  s.visit.pass = pass;
  s.state = state;
}
__device__ __forceinline__ void gather(Search& s, uint64_t low, uint64_t high, int most,
                                       State state) {
  s.visit.low = low;
  s.visit.high = high;
  s.visit.most = most;
  then(s, kGather, state);
}
__device__ __forceinline__ void gather_from(Search& s, float at_least, State state) {
  // Each group visited holds at least one token that is wanted.
  gather(s, 0, rank_key(fmaxf(at_least, kLowestT), kLastId), kList, state);
}
__device__ __forceinline__ void hunt(Search& s, Pass pass, State state) {
  s.visit.hunt = s.hunt;
  then(s, pass, state);
}
__device__ __forceinline__ void weigh(Search& s, State state) {
  s.visit.limit = s.survivors.limit;
  then(s, s.survivors.listed ? kWeighList : kWeigh, state);
}

// A guess at a bound, and a gather above it.
__device__ __forceinline__ void estimate(const RowTop& top, Search& s) {
  if (s.complete) return gather(s, 0, rank_key(kLowestT, kLastId), kAll, kGathered);
  if (s.goal == kTopP) {
    const float at_least = top.t - s.depth;
    s.depth += 6.0f;
    return gather_from(s, at_least, kGathered);
  }
  s.state = kInRow;
  if (s.hunt.left <= (s.goal == kTopIds ? kList / 4 : kList)) hunt(s, kBound, kBounded);
}

__device__ __forceinline__ void after_bound(int bin, Search& s) {
  s.state = kInRow;  // fewer groups than tokens asked for
  if (bin >= 0) gather_from(s, bound_of_bin(s.hunt.top, bin), kGathered);
}

__device__ __forceinline__ void after_gather(bool fits, Search& s) {
  if (s.goal == kTopIds) {
    s.state = fits ? kBatch : kInRow;
  } else if (s.goal == kMinP || s.state == kListTopK) {
    s.survivors.listed = fits;
    s.state = kNext;
  } else {
    s.survivors.listed = fits && s.complete;
    s.state = fits ? kInList : kInRow;
  }
}

__device__ __forceinline__ void after_select(bool found, uint64_t key, Search& s) {
  if (!found) {
    // All survive, if all that survived so far was there to be looked at.
    const bool all = s.goal != kTopP || s.survivors.listed || s.complete;
    s.state = all ? kNext : s.depth <= 12.0f ? kEstimate : kInRow;
  } else if (s.goal == kTopIds) {
    gather(s, s.first, key, kAll, kBatch);  // what is to be written in order
  } else if (s.goal == kTopK) {
    s.survivors.limit = {key_t(key), kLastId};  // ties stay
    s.survivors.listed = !s.ranged;
    s.state = kNext;
    if (s.ranged) gather_from(s, key_t(key), kListTopK);
  } else {
    s.survivors.limit = {key_t(key), key_id(key)};
    s.survivors.listed = !s.ranged;
    s.state = kNext;
  }
}

__device__ __forceinline__ void after_bins(const RowWork& w, Search& s) {
  if (w.bin < 0) {
    s.state = kNext;  // all survive
    if (s.goal == kTopIds) gather(s, s.first, ~uint64_t(0), kAll, kBatch);
    return;
  }
  s.hunt.left -= w.bin_above;
  narrow(s.hunt, w.bin);
  if (s.goal == kTopK && s.hunt.low >> 32 == s.hunt.high >> 32) {
    // One t is left, and its ties stay: nobody has to part them by their ids.
    s.survivors.limit = {key_t(s.hunt.high), kLastId};
    return gather_from(s, s.survivors.limit.t, kListTopK);
  }
  if (w.bin_count > kList) return hunt(s, kBin, kBinned);
  s.ranged = true;
  gather(s, s.hunt.low, s.hunt.high, kAll, kInList);
}

// kTopIds: a batch of the rank has been written.
__device__ __forceinline__ void after_write(int count, int num_top, const RowTop& top, Search& s) {
  s.done += count;
  s.first = s.visit.high + 1;
  s.hunt = hunt_for(uint64_t(smaller(num_top - s.done, kList / 2)), false, top.z, 0.0f);
  s.hunt.low = s.first;
  s.ranged = false;
  s.state = kInRow;
  if (!count || s.done >= num_top || !s.first) then(s, kFill, kNext);
}

// Sets up the next goal, if this row has it.
__device__ __forceinline__ void next_goal(const Plan& plan, const RowWork& w, Search& s) {
  const RowOptions& o = w.options;
  const bool own = plan.stage == kOwnNuclei, samples = !own && !o.greedy;
  const bool top_k = o.top_k > 0 && o.top_k < plan.step.vocab_size && !o.greedy;
  const bool top_p = o.top_p < kWhole && !o.greedy;
  const Limit& limit = s.survivors.limit;
  s.goal = Goal(s.goal + 1);
  s.ranged = false;
  if (s.goal == kTopK && top_k) {
    s.hunt = hunt_for(uint64_t(o.top_k), false, w.top.t, w.top.reference);
    s.state = kEstimate;
  } else if (s.goal == kWeighTopK && top_k && top_p) {
    weigh(s, kNext);
  } else if (s.goal == kTopP && top_p) {
    then(s, kTotal, kTotalled);
  } else if (s.goal == kMinP && samples && w.top.t + o.min_p_offset > -INFINITY) {
    s.survivors.limit = stricter(limit, {w.top.t + o.min_p_offset, kLastId});
    if (!s.survivors.listed) gather_from(s, s.survivors.limit.t, kGathered);
  } else if (s.goal == kWeighAll && samples) {
    const bool limited = limit.t > kLowestT || limit.id != kLastId;
    if (limited || plan.step.details.num_kept) weigh(s, kNext);
  } else if (s.goal == kDraw && !own) {
    then(s, kToken, kNext);
  } else if (s.goal == kTopIds && !own && plan.step.details.num_top) {
    s.visit.c = 1.0f;
    const int count = smaller(plan.step.details.num_top, kList / 2);
    s.hunt = hunt_for(uint64_t(count), false, w.top.z, 0.0f);
    s.state = kEstimate;
  }
}

__device__ __forceinline__ void begin_top_p(const RowWork& w, Search& s) {
  // Rank 0 stays even where p is 0, as it does for a target of one unit.
  const uint64_t target = mass_target(w.options.top_p, w.total);
  s.hunt = hunt_for(target ? target : 1, true, w.top.t, w.top.reference);
  s.hunt.high = rank_key(s.survivors.limit.t, s.survivors.limit.id);
  s.state = s.survivors.listed ? kInList : kEstimate;
}

// One thread of the leader's block: to the next pass, or to the end of the row.
__device__ __forceinline__ void think(const Plan& plan, RowWork& w) {
  Search& s = w.search;
  s.visit.pass = kNoPass;
  while (s.visit.pass == kNoPass && s.goal != kDone) {
    switch (s.state) {
      case kNext: next_goal(plan, w, s); break;
      case kTotalled: begin_top_p(w, s); break;
      case kEstimate: estimate(w.top, s); break;
      case kBounded: hunt(s, kFindBin, kReached); break;
      case kReached: after_bound(w.bin, s); break;
      case kInList: hunt(s, kSelect, kSelected); break;
      case kSelected: after_select(w.is_found, w.found, s); break;
      case kInRow: hunt(s, kBin, kBinned); break;
      case kBinned: hunt(s, kFindBin, kPlaced); break;
      case kPlaced: after_bins(w, s); break;
      case kBatch: then(s, kWrite, kWritten); break;
      case kWritten: after_write(int(w.list_count), plan.step.details.num_top, w.top, s); break;
      default: after_gather(w.list_count <= kList, s); break;
    }
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_FILTERS_CUH_
