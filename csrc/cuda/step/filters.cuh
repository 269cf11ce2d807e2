// The filters of a row (docs/numerics.md §4), and the first of its rank, as a state machine. Thread
// 0 of the leader's block runs it: next_pass goes on until a pass is scheduled, or the row is done.
// Between passes everything lies in FilterState. One loop around one copy of each pass keeps the
// passes, most of a kernel's code, from being inlined a dozen times: that took six minutes to
// compile, and spilled.
//
// A new filter is a FilterPhase in its place of transformers' order, a branch of next_phase that
// sets up its query or cutoff, and a branch of after_query if its cutoff has a rule of its own, as
// top_k has for ties (cutoff_with_ties).
//
//   next phase → guess bound → gather → query candidates → next phase     the usual row
//                   ↑             |            |
//                   +-------------|--- deeper -+
//                                 +→ bin row ←-+    rows whose candidates do not fit:
//                                      +→ find bin → (bin row again, or) gather → query candidates
#ifndef EFT_CUDA_STEP_FILTERS_CUH_
#define EFT_CUDA_STEP_FILTERS_CUH_

#include "cuda/common/plan.cuh"
#include "cuda/step/rank_query.cuh"

namespace eft {
namespace {

constexpr int kAllGroups = 1 << 30;

__device__ __forceinline__ void start_filters(RowWork& w, const RowMax& max,
                                              bool candidates_are_row) {
  FilterState& s = w.filter;
  w.max = max;
  s.phase = kStart;
  s.state = kNextPhase;
  s.survivors = {{kLowestT, kLastId}, false};
  s.candidates_are_row = candidates_are_row;
  s.candidates_are_range = false;
  s.top_p_depth = 6.0f;
  s.num_written = 0;
  s.next_key = 0;
  s.pass.kind = kNoPass;
  s.pass.c = w.options.scale;
}

__device__ __forceinline__ void schedule(FilterState& s, PassKind kind, PhaseState after) {
  s.pass.kind = kind;
  s.state = after;
}
__device__ __forceinline__ void gather(FilterState& s, uint64_t low, uint64_t high, int max_groups,
                                       PhaseState after) {
  s.pass.low = low;
  s.pass.high = high;
  s.pass.max_groups = max_groups;
  schedule(s, kGather, after);
}
__device__ __forceinline__ void gather_above(FilterState& s, float at_least, PhaseState after) {
  // Each group that is read holds a token above the bound: more groups do not fit.
  gather(s, 0, rank_key(fmaxf(at_least, kLowestT), kLastId), kMaxCandidates, after);
}
__device__ __forceinline__ void schedule_query(FilterState& s, PassKind kind, PhaseState after) {
  s.pass.query = s.query;
  schedule(s, kind, after);
}
__device__ __forceinline__ void schedule_weigh(FilterState& s, PhaseState after) {
  s.pass.cutoff = s.survivors.cutoff;
  schedule(s, s.survivors.in_candidates ? kWeighCandidates : kWeighTokens, after);
}

// Decides top_k's ties: all tokens of the k-th largest t survive, whatever their ids.
__device__ __forceinline__ Cutoff cutoff_with_ties(uint64_t kth_key) {
  return {key_t(kth_key), kLastId};
}

// kTopP: 6, then 12 powers of two below the maximum. Else: the bound that enough groups reach.
__device__ __forceinline__ void guess_bound(const RowMax& max, FilterState& s) {
  if (s.candidates_are_row)
    return gather(s, 0, rank_key(kLowestT, kLastId), kAllGroups, kAfterGather);
  if (s.phase == kTopP) {
    const float at_least = max.t - s.top_p_depth;
    s.top_p_depth += 6.0f;
    return gather_above(s, at_least, kAfterGather);
  }
  s.state = kBinRow;
  if (s.query.target <= (s.phase == kTopIds ? kMaxCandidates / 4 : kMaxCandidates))
    schedule_query(s, kBinGroups, kAfterBinGroups);
}

__device__ __forceinline__ void after_find_bound(int bin, FilterState& s) {
  s.state = kBinRow;  // where fewer groups hold something than tokens are asked for
  if (bin >= 0) gather_above(s, bound_of_bin(s.query.max_t, bin), kAfterGather);
}

__device__ __forceinline__ void after_gather(bool fits, FilterState& s) {
  if (s.phase == kTopIds) {
    s.state = fits ? kAfterGatherTopIds : kBinRow;
  } else if (s.phase == kMinP || s.state == kAfterGatherTopK) {
    s.survivors.in_candidates = fits;
    s.state = kNextPhase;
  } else {
    s.survivors.in_candidates = fits && s.candidates_are_row;
    s.state = fits ? kQuery : kBinRow;
  }
}

__device__ __forceinline__ void after_query(bool found, uint64_t key, FilterState& s) {
  if (!found) {
    // All survive, if all survivors so far were candidates.
    const bool all = s.phase != kTopP || s.survivors.in_candidates || s.candidates_are_row;
    s.state = all ? kNextPhase : s.top_p_depth <= 12.0f ? kGuessBound : kBinRow;
  } else if (s.phase == kTopIds) {
    gather(s, s.next_key, key, kAllGroups, kAfterGatherTopIds);
  } else if (s.phase == kTopK) {
    s.survivors.cutoff = cutoff_with_ties(key);
    s.survivors.in_candidates = !s.candidates_are_range;
    s.state = kNextPhase;
    if (s.candidates_are_range) gather_above(s, key_t(key), kAfterGatherTopK);
  } else {
    s.survivors.cutoff = {key_t(key), key_id(key)};
    s.survivors.in_candidates = !s.candidates_are_range;
    s.state = kNextPhase;
  }
}

__device__ __forceinline__ void after_find_bin(const RowWork& w, FilterState& s) {
  if (w.bin < 0) {
    s.state = kNextPhase;  // all survive
    if (s.phase == kTopIds) gather(s, s.next_key, ~uint64_t(0), kAllGroups, kAfterGatherTopIds);
    return;
  }
  s.query.target -= w.weight_above_bin;
  narrow(s.query, w.bin);
  if (s.phase == kTopK && s.query.low >> 32 == s.query.high >> 32) {
    // One t is left, and all its ties survive: their ids do not matter.
    s.survivors.cutoff = cutoff_with_ties(s.query.high);
    return gather_above(s, s.survivors.cutoff.t, kAfterGatherTopK);
  }
  if (w.bin_count > kMaxCandidates) return schedule_query(s, kBinTokens, kAfterBinTokens);
  s.candidates_are_range = true;
  gather(s, s.query.low, s.query.high, kAllGroups, kQuery);
}

// kTopIds: a batch is written; the next one, of at most 1024, or the padding.
__device__ __forceinline__ void after_write(int count, int num_top, const RowMax& max,
                                            FilterState& s) {
  s.num_written += count;
  s.next_key = s.pass.high + 1;
  s.query = make_query(uint64_t(smaller(num_top - s.num_written, kMaxCandidates / 2)), false, max.z,
                       0.0f);
  s.query.low = s.next_key;
  s.candidates_are_range = false;
  s.state = kBinRow;
  if (!count || s.num_written >= num_top || !s.next_key) schedule(s, kPadTopIds, kNextPhase);
}

// Sets up the next phase, if this row has it.
__device__ __forceinline__ void next_phase(const Plan& plan, const RowWork& w, FilterState& s) {
  const RowOptions& o = w.options;
  const bool is_nuclei_stage = plan.stage == kModelNuclei, samples = !is_nuclei_stage && !o.greedy;
  const bool top_k = o.top_k > 0 && o.top_k < plan.step.vocab_size && !o.greedy;
  const bool top_p = o.top_p < kWhole && !o.greedy;
  const Cutoff& cutoff = s.survivors.cutoff;
  s.phase = FilterPhase(s.phase + 1);
  s.candidates_are_range = false;
  if (s.phase == kTopK && top_k) {
    s.query = make_query(uint64_t(o.top_k), false, w.max.t, w.max.reference);
    s.state = kGuessBound;
  } else if (s.phase == kWeighTopK && top_k && top_p) {
    schedule_weigh(s, kNextPhase);
  } else if (s.phase == kTopP && top_p) {
    schedule(s, kTotalMass, kAfterTotal);
  } else if (s.phase == kMinP && samples && w.max.t + o.min_p_offset > -INFINITY) {
    s.survivors.cutoff = stricter(cutoff, {w.max.t + o.min_p_offset, kLastId});
    if (!s.survivors.in_candidates) gather_above(s, s.survivors.cutoff.t, kAfterGather);
  } else if (s.phase == kWeighSurvivors && samples) {
    const bool limited = cutoff.t > kLowestT || cutoff.id != kLastId;
    if (limited || plan.step.details.num_kept) schedule_weigh(s, kNextPhase);
  } else if (s.phase == kDraw && !is_nuclei_stage) {
    schedule(s, kDrawToken, kNextPhase);
  } else if (s.phase == kTopIds && !is_nuclei_stage && plan.step.details.num_top) {
    s.pass.c = 1.0f;
    const int count = smaller(plan.step.details.num_top, kMaxCandidates / 2);
    s.query = make_query(uint64_t(count), false, w.max.z, 0.0f);
    s.state = kGuessBound;
  }
}

__device__ __forceinline__ void begin_top_p(const RowWork& w, FilterState& s) {
  // Rank 0 survives even where p is 0, as it does for a target of one unit of mass.
  const uint64_t target = mass_target(w.options.top_p, w.total);
  s.query = make_query(target ? target : 1, true, w.max.t, w.max.reference);
  s.query.high = rank_key(s.survivors.cutoff.t, s.survivors.cutoff.id);
  s.state = s.survivors.in_candidates ? kQuery : kGuessBound;
}

// Thread 0 of the leader's block: schedules the next pass, or kNoPass at the end of the row.
__device__ __forceinline__ void next_pass(const Plan& plan, RowWork& w) {
  FilterState& s = w.filter;
  s.pass.kind = kNoPass;
  while (s.pass.kind == kNoPass && s.phase != kDone) {
    switch (s.state) {
      case kNextPhase: next_phase(plan, w, s); break;
      case kAfterTotal: begin_top_p(w, s); break;
      case kGuessBound: guess_bound(w.max, s); break;
      case kAfterBinGroups: schedule_query(s, kFindBin, kAfterFindBound); break;
      case kAfterFindBound: after_find_bound(w.bin, s); break;
      case kQuery: schedule_query(s, kQueryCandidates, kAfterQuery); break;
      case kAfterQuery: after_query(w.is_found, w.found_key, s); break;
      case kBinRow: schedule_query(s, kBinTokens, kAfterBinTokens); break;
      case kAfterBinTokens: schedule_query(s, kFindBin, kAfterFindBin); break;
      case kAfterFindBin: after_find_bin(w, s); break;
      case kAfterGatherTopIds: schedule(s, kWriteTopIds, kAfterWrite); break;
      case kAfterWrite:
        after_write(int(w.num_candidates), plan.step.details.num_top, w.max, s);
        break;
      default: after_gather(w.num_candidates <= kMaxCandidates, s); break;
    }
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_FILTERS_CUH_
