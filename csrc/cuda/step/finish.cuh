// What is left of a row once all of its tiles are final: filters, draw, results.
#ifndef EFT_CUDA_STEP_FINISH_CUH_
#define EFT_CUDA_STEP_FINISH_CUH_

#include "cuda/step/details.cuh"
#include "cuda/step/draw.cuh"
#include "cuda/step/filters.cuh"
#include "cuda/step/passes.cuh"

namespace eft {
namespace {

// The team together. Every block works it out for itself from the leader's tile maxima.
template <class Team>
__device__ __forceinline__ RowTop row_top(const Team& team, int num_tiles, float c) {
  RowWork& w = *team.own;
  uint32_t key = 0;
  for (int i = thread_index(); i < num_tiles; i += Team::kThreads) {
    const uint32_t other = ordered(team.lead->tile_max[i]);
    key = other > key ? other : key;
  }
  key = __reduce_max_sync(0xffffffffu, key);
  if (thread_index() % 32 == 0) w.partial[thread_index() / 32] = key;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Team::kThreads / 32; ++i) {
    const uint32_t other = uint32_t(w.partial[i]);
    key = other > key ? other : key;
  }
  const float z = from_ordered(key), t = z * c;
  return {z, t, floorf(t), t < INFINITY && t > -INFINITY};
}

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
  if (thread_index() == 0) {
    plan.step.tokens[row] = token;
    if (d.status) d.status[row] = 0;
    if (d.num_kept) d.num_kept[row] = o.greedy ? 1 : int32_t(w.num_kept);
    if (d.logprobs) d.logprobs[row] = o.greedy ? 0.0f : drawn_logprob(w, token);
  }
  if constexpr (Source::kHasStats) {
    if (plan.wants_stats) write_temperature_one(team, plan, w.stats, row, token, w.top.z);
  }
}

template <class Team>
__device__ __forceinline__ void fill_rank(const Team& team, const eft_details& d) {
  const int64_t at = team.own->row * d.num_top;
  for (int i = team.own->search.done + int(thread_index()); i < d.num_top; i += Team::kThreads) {
    d.top_ids[at + i] = -1;
    d.top_logprobs[at + i] = -INFINITY;
  }
}

// The leader's block, until the whole team is wanted or the row is done.
template <class Team, class Source>
__device__ __forceinline__ void work_alone(const Team& team, const Source& source,
                                           const Plan& plan) {
  for (;;) {
    RowWork& w = *anew(team.own);
    if (thread_index() == 0) think(plan, w);
    __syncthreads();
    const Pass pass = w.search.visit.pass;
    if (pass == kSelect) {
      select_in_list(team, w.search.visit.hunt);
    } else if (pass == kFindBin) {
      find_bin(team, w.search.visit.hunt.left);
    } else if (pass == kTotal) {
      const uint64_t total = total_mass(team, source.num_tiles, w.options.scale, w.top.reference);
      if (thread_index() == 0) w.total = total;
    } else if (pass == kWeighList) {
      weigh_list(team, source.num_tiles);
    } else if (pass == kToken) {
      write_row(team, source, plan);
    } else if (Source::kHasStats && pass == kWrite) {
      write_ranked(team, plan.step.details, w.row, w.search.done);
    } else if (Source::kHasStats && pass == kFill) {
      fill_rank(team, plan.step.details);
    } else {
      return clear_for(team, pass, source.num_tiles);
    }
    __syncthreads();
  }
}

// kOwnNuclei: the model's normaliser, and the nucleus if it is the defining one.
template <class Team, class Source>
__device__ __forceinline__ void write_normaliser(const Team& team, const Source& source,
                                                 const RowTop& top, Nucleus& out, int model) {
  if (thread_index() == 0) out.valid[model] = top.valid;
  if (!top.valid) return;
  const uint64_t total = total_mass(team, source.num_tiles, team.own->options.scale, top.reference);
  if (thread_index()) return;
  out.log_normaliser[model] =
      kLn2 * ((double(top.reference) - 40.0) + log2_exact_bits(double(total)));
}

// The team together; own->options and the leader's tile_max and tile_mass are in place.
template <class Team, class Source>
__device__ __forceinline__ void finish_row(Team team, Source source, const Plan& plan) {
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

  if (thread_index() == 0) start_search(w, found, plan.step.vocab_size <= kList);
  for (;;) {
    team.own = anew(team.own);
    team.lead = Team::kClusters ? anew_anywhere(team.lead) : team.own;
    source.renew();
    if (team.leads()) work_alone(team, source, plan);
    team.sync();
    if (!team.leads()) {
      if (thread_index() == 0) team.own->search.visit = team.lead->search.visit;
      __syncthreads();
    }
    if (team.own->search.visit.pass == kNoPass) break;
    visit(team, source);
  }
  if (own && thread_index() == 0) {
    Nucleus& nucleus = plan.workspace.nuclei[w.row - plan.first_row];
    nucleus.t = w.search.survivors.limit.t;
    nucleus.id = w.search.survivors.limit.id;
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_FINISH_CUH_
