// What is left of a row once all of its tiles are final: filters, draw, results.
#ifndef EFT_CUDA_FINISH_H_
#define EFT_CUDA_FINISH_H_

#include "cuda/search.h"

namespace eft {
namespace {

// The leader's block: token, kept and logprob; leaves the token's tile loaded where details of
// temperature 1 are wanted.
template <class Team, class Source>
__device__ __forceinline__ int draw(const Team& team, const Source& source, const Plan& plan,
                                    int64_t row, const RowTop& top, const Survivors& s) {
  RowWork& w = *team.own;
  const RowOptions& o = w.options;
  const eft_details& d = plan.step.details;
  const float c = o.scale;
  uint64_t mass = 0;
  if (o.greedy) {
    first_tile_of(team, source.num_tiles, top.z);
  } else {
    const uint64_t bits = random_bits(o.seed, o.position, 0, kSample);
    mass = draw_tile(team, source.num_tiles, c, top.reference, bits);
  }
  if (o.greedy || !s.listed || d.logprobs || plan.wants_stats) load_tile(team, source);
  const int token = o.greedy ? first_in_tile(team, top.z) : draw_in_tile(team, s, c);
  if (threadIdx.x) return token;
  plan.step.tokens[row] = token;
  if (d.status) d.status[row] = 0;
  if (d.kept) d.kept[row] = o.greedy ? 1 : int32_t(w.kept);
  if (!d.logprobs) return token;
  // The mass is within 1.5e-7 of 2^t: a token that is alone must not come out above 0.
  const double log2_mass = o.greedy ? 0.0 : log2_exact_bits(double(mass)) - 40.0;
  const double t = double(w.tile_z[token % kTile] * c);
  const float logprob = float(kLn2 * ((t - double(top.reference)) - log2_mass));
  d.logprobs[row] = o.greedy ? 0.0f : fminf(0.0f, logprob);
  return token;
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
    case kTopIds:
      if (!Source::kHasStats || own || !plan.step.details.num_top) return;
      s.visit.c = 1.0f;
      s.hunt = hunt_for(uint64_t(smaller(plan.step.details.num_top, kList / 2)), false, top.z, 0.0f);
      s.state = kEstimate;
      return;
    default: return;
  }
  s.visit.limit = s.survivors.limit;
  s.visit.listed = s.survivors.listed;
}

// kTopIds: a batch of the rank is in the list.
template <class Team>
__device__ __forceinline__ void write_batch(const Team& team, const eft_details& d, int64_t row,
                                            const RowTop& top, Search& s) {
  write_ranked(team, d, row, s.done);
  const int count = int(team.own->list_count);
  s.done += count;
  s.first = s.visit.high + 1;
  s.hunt = hunt_for(uint64_t(smaller(d.num_top - s.done, kList / 2)), false, top.z, 0.0f);
  s.hunt.low = s.first;
  s.ranged = false;
  s.state = kInRow;
  if (count && s.done < d.num_top && s.first) return;
  for (int i = s.done + int(threadIdx.x); i < d.num_top; i += Team::kThreads) {
    d.top_ids[row * d.num_top + i] = -1;
    d.top_logprobs[row * d.num_top + i] = -INFINITY;
  }
  s.state = kNext;
}

// kOwnNuclei: the model's normaliser, and the nucleus if it is the defining one.
template <class Team, class Source>
__device__ __forceinline__ void write_normaliser(const Team& team, const Source& source,
                                                 const RowTop& top, Nucleus& out, int model) {
  if (threadIdx.x == 0) out.valid[model] = top.valid;
  if (!top.valid) return;
  const uint64_t total =
      total_mass(team, source.num_tiles, team.own->options.scale, top.reference);
  if (threadIdx.x) return;
  out.log_normaliser[model] =
      kLn2 * ((double(top.reference) - 40.0) + log2_exact_bits(double(total)));
}

// The team together; own->options and the leader's tile_max and tile_mass are in place.
template <class Team, class Source>
__device__ __forceinline__ void finish_row(const Team& team, const Source& source, const Plan& plan,
                                           int64_t row, int model) {
  const bool own = plan.stage == kOwnNuclei;
  const eft_details& d = plan.step.details;
  const RowTop found = row_top(team, source.num_tiles, team.own->options.scale);
  if (own) {
    Nucleus& nucleus = plan.workspace.nuclei[row - plan.first_row];
    write_normaliser(team, source, found, nucleus, model);
    if (!found.valid || model != plan.step.conservative - 1) return;
  } else if (!found.valid) {
    if (team.leads()) write_invalid(plan.step, row);
    return;
  }

  // Between passes the machine lies in shared memory: its registers are needed for tokens.
  RowWork& w = *team.own;
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
      case kEstimate: estimate(team, source, top, s); break;
      case kInList: in_list(team, s); break;
      case kInRow: bin_row(s); break;
      case kBinned: after_bins(team, s); break;
      case kBatch: write_batch(team, d, row, top, s); break;
      default: after_gather(team, s); break;
    }
    if (s.goal == kDone) break;
    if (s.goal == kDraw && !own && team.leads()) {
      const int token = draw(team, source, plan, row, top, s.survivors);
      if constexpr (Source::kHasStats) {
        if (plan.wants_stats) write_temperature_one(team, plan, source.stats, row, token, top.z);
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) w.search = s;
    __syncthreads();
    if (s.visit.pass != kNoPass) visit(team, source, w.search.visit);
  }
  if (own && threadIdx.x == 0) {
    Nucleus& nucleus = plan.workspace.nuclei[row - plan.first_row];
    nucleus.t = w.search.survivors.limit.t;
    nucleus.id = w.search.survivors.limit.id;
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_FINISH_H_
