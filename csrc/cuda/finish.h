// What is left of a row once all of its tiles are final: filters, draw, results.
#ifndef EFT_CUDA_FINISH_H_
#define EFT_CUDA_FINISH_H_

#include "cuda/search.h"

namespace eft {
namespace {

// The leader's block: a token and what goes with it.
template <class Team, class Source>
__device__ __forceinline__ void write_row(const Team& team, const Source& source,
                                          const Plan& plan) {
  RowWork& w = *team.own;
  const int64_t row = w.row;
  const RowOptions& o = w.options;
  const Survivors& s = w.search.survivors;
  const eft_details& d = plan.step.details;
  if (o.greedy) {
    first_tile_of(team, source.num_tiles, w.top.z);
  } else {
    const uint64_t bits = random_bits(o.seed, o.position, 0, kSample);
    draw_tile(team, source.num_tiles, o.scale, w.top.reference, bits);
  }
  if (o.greedy || !s.listed || d.logprobs || plan.wants_stats) load_tile(team, source);
  const int token = o.greedy ? first_in_tile(team, w.top.z) : draw_in_tile(team, s, o.scale);
  if (threadIdx.x == 0) {
    plan.step.tokens[row] = token;
    if (d.status) d.status[row] = 0;
    if (d.kept) d.kept[row] = o.greedy ? 1 : int32_t(w.kept);
    if (d.logprobs) d.logprobs[row] = o.greedy ? 0.0f : drawn_logprob(w, token);
  }
  if constexpr (Source::kHasStats) {
    if (plan.wants_stats) write_temperature_one(team, plan, w.stats, row, token, w.top.z);
  }
}

// Sets up the next goal that this row has.
template <class Team, class Source>
__device__ __forceinline__ void next_goal(const Team& team, const Source& source, const Plan& plan,
                                          const RowTop& top, Search& s) {
  const RowOptions& o = team.own->options;
  const bool own = plan.stage == kOwnNuclei, greedy = o.greedy;
  const bool top_k = o.top_k > 0 && o.top_k < plan.step.vocab_size && !greedy;
  const bool limited = s.survivors.limit.t > kLowestT || s.survivors.limit.id != kLastId;
  s.goal = Goal(s.goal + 1);
  s.ranged = false;
  switch (s.goal) {
    case kTopK:
      if (!top_k) return;
      s.hunt = hunt_for(uint64_t(o.top_k), false, top.t, top.reference);
      s.state = kEstimate;
      return;
    case kTopP: {
      if (o.top_p == kWhole || greedy) return;
      if (team.leads()) {
        const uint64_t total = total_mass(team, source.num_tiles, o.scale, top.reference);
        if (threadIdx.x == 0) team.lead->total = total;
      }
      team.sync();
      // Rank 0 stays even where p is 0, as it does for a target of one unit.
      const uint64_t target = mass_target(o.top_p, team.lead->total);
      s.hunt = hunt_for(target ? target : 1, true, top.t, top.reference);
      s.hunt.high = rank_key(s.survivors.limit.t, s.survivors.limit.id);
      s.state = s.survivors.listed ? kInList : kEstimate;
      return;
    }
    case kMinP: {
      const float at_least = top.t + o.min_p_offset;
      if (!(at_least > -INFINITY) || greedy || own) return;
      s.survivors.limit = stricter(s.survivors.limit, {at_least, kLastId});
      if (!s.survivors.listed) gather_from(s, s.survivors.limit.t, kGathered);
      return;
    }
    case kWeighTopK:
      if (!top_k || o.top_p == kWhole) return;
      s.visit.pass = kWeigh;
      break;
    case kWeighAll:
      if (greedy || own || !(limited || plan.step.details.kept)) return;
      s.visit.pass = kWeigh;
      break;
    case kDraw:
      if (own) return;
      s.visit.pass = kToken;
      return;
    case kTopIds:
      if (!Source::kHasStats || own || !plan.step.details.num_top) return;
      s.visit.c = 1.0f;
      s.hunt =
          hunt_for(uint64_t(smaller(plan.step.details.num_top, kList / 2)), false, top.z, 0.0f);
      s.state = kEstimate;
      return;
    default: return;
  }
  s.visit.limit = s.survivors.limit;
  s.visit.listed = s.survivors.listed;
}

// kTopIds: a batch of the rank has been written.
template <class Team>
__device__ __forceinline__ void after_write(const Team& team, const eft_details& d,
                                            const RowTop& top, Search& s) {
  const int count = int(team.own->list_count);
  s.done += count;
  s.first = s.visit.high + 1;
  s.hunt = hunt_for(uint64_t(smaller(d.num_top - s.done, kList / 2)), false, top.z, 0.0f);
  s.hunt.low = s.first;
  s.ranged = false;
  s.state = count && s.done < d.num_top && s.first ? kInRow : kNext;
  if (s.state == kInRow) return;
  const int64_t at = team.own->row * d.num_top;
  for (int i = s.done + int(threadIdx.x); i < d.num_top; i += Team::kThreads) {
    d.top_ids[at + i] = -1;
    d.top_logprobs[at + i] = -INFINITY;
  }
}

// kOwnNuclei: the model's normaliser, and the nucleus if it is the defining one.
template <class Team, class Source>
__device__ __forceinline__ void write_normaliser(const Team& team, const Source& source,
                                                 const RowTop& top, Nucleus& out, int model) {
  if (threadIdx.x == 0) out.valid[model] = top.valid;
  if (!top.valid) return;
  const uint64_t total = total_mass(team, source.num_tiles, team.own->options.scale, top.reference);
  if (threadIdx.x) return;
  out.log_normaliser[model] =
      kLn2 * ((double(top.reference) - 40.0) + log2_exact_bits(double(total)));
}

// The team together; own->options and the leader's tile_max and tile_mass are in place.
template <class Team, class Source>
__device__ __forceinline__ void finish_row(const Team& team, const Source& source,
                                           const Plan& plan) {
  const bool own = plan.stage == kOwnNuclei;
  RowWork& w = *team.own;
  const RowTop found = row_top(team, source.num_tiles, team.own->options.scale);
  if (own) {
    Nucleus& nucleus = plan.workspace.nuclei[w.row - plan.first_row];
    write_normaliser(team, source, found, nucleus, w.model);
    if (!found.valid || w.model != plan.step.conservative - 1) return;
  } else if (!found.valid) {
    if (team.leads()) write_invalid(plan.step, w.row);
    return;
  }

  // Between passes the machine lies in shared memory: its registers are needed for tokens.
  if (threadIdx.x == 0) {
    w.top = found;
    w.search = new_search(found, w.options.scale, plan.step.vocab_size <= kList);
  }
  __syncthreads();
  for (;;) {
    Search s = w.search;
    const RowTop top = w.top;
    s.visit.pass = kNoPass;
    switch (s.state) {
      case kNext: next_goal(team, source, plan, top, s); break;
      case kEstimate: estimate(top, s); break;
      case kBounded: after_bound(team, s); break;
      case kInList: select(s); break;
      case kSelected: after_select(team, s); break;
      case kInRow: bin_row(s); break;
      case kBinned: after_bins(team, s); break;
      case kBatch:
        s.visit.pass = kWrite;
        s.state = kWritten;
        break;
      case kWritten: after_write(team, plan.step.details, top, s); break;
      default: after_gather(team, s); break;
    }
    if (s.goal == kDone) break;
    __syncthreads();
    if (threadIdx.x == 0) w.search = s;
    __syncthreads();
    const Pass pass = w.search.visit.pass;
    if (pass == kSelect) {
      if (team.leads()) select_in_list(team, w.search.visit.hunt);
      team.sync();
    } else if (pass == kBound) {
      bound_by_groups(team, source, w.search.visit.c, w.search.visit.hunt);
    } else if (pass == kToken) {
      if (team.leads()) write_row(team, source, plan);
    } else if (pass == kWrite) {
      if constexpr (Source::kHasStats) {
        write_ranked(team, plan.step.details, w.row, w.search.done);
      }
    } else if (pass != kNoPass) {
      visit(team, source, w.search.visit);
    }
  }
  if (own && threadIdx.x == 0) {
    Nucleus& nucleus = plan.workspace.nuclei[w.row - plan.first_row];
    nucleus.t = w.search.survivors.limit.t;
    nucleus.id = w.search.survivors.limit.id;
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_FINISH_H_
