// The finish of a row, once all of its tiles are summarised: filters, draw, results. The leader's
// block runs the state machine (filters.cuh) and its own passes; the whole team runs the others.
#ifndef EFT_CUDA_STEP_FINISH_CUH_
#define EFT_CUDA_STEP_FINISH_CUH_

#include "cuda/step/details.cuh"
#include "cuda/step/draw.cuh"
#include "cuda/step/filters.cuh"
#include "cuda/step/passes.cuh"

namespace eft {
namespace {

// The row's largest z. Every block of the team works it out from the leader's tile maxima.
template <class Team>
__device__ __forceinline__ RowMax find_row_max(const Team& team, int num_tiles, float c) {
  RowWork& w = *team.own;
  uint32_t key = 0;
  for (int i = thread_index(); i < num_tiles; i += Team::kThreads) {
    const uint32_t other = ordered(team.leader->tile_max[i]);
    key = other > key ? other : key;
  }
  key = __reduce_max_sync(0xffffffffu, key);
  if (thread_index() % 32 == 0) w.warp_partial[thread_index() / 32] = key;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Team::kThreads / 32; ++i) {
    const uint32_t other = uint32_t(w.warp_partial[i]);
    key = other > key ? other : key;
  }
  const float z = from_ordered(key), t = z * c;
  return {z, t, floorf(t), t < INFINITY && t > -INFINITY};
}

// kDrawToken: the token and its details.
template <class Team, class Source>
__device__ __forceinline__ void run_draw_pass(const Team& team, const Source& source,
                                              const Plan& plan) {
  RowWork& w = *team.own;
  const int64_t row = w.row;
  const RowOptions& o = w.options;
  const Survivors& s = w.filter.survivors;
  const eft_details& d = plan.step.details;
  if (o.greedy) {
    first_tile_of(team, source.num_tiles, w.max.z);
  } else {
    draw_tile(team, source.num_tiles, o.scale, w.max.reference, bits_of_draw(o));
  }
  if (o.greedy || !s.in_candidates || d.logprobs || plan.wants_stats) load_tile(team, source);
  const int token = o.greedy ? first_in_tile(team, w.max.z) : draw_in_tile(team, s, o.scale);
  if (thread_index() == 0) {
    plan.step.tokens[row] = token;
    if (d.status) d.status[row] = 0;
    if (d.num_kept) d.num_kept[row] = o.greedy ? 1 : int32_t(w.num_kept);
    if (d.logprobs) d.logprobs[row] = o.greedy ? 0.0f : drawn_logprob(w, token);
  }
  if constexpr (Source::kHasStats) {
    if (plan.wants_stats) write_temperature_one(team, plan, w.stats, row, token, w.max.z);
  }
}

// The leader's block, until a pass takes the whole team or the row is done.
template <class Team, class Source>
__device__ __forceinline__ void run_leader_passes(const Team& team, const Source& source,
                                                  const Plan& plan) {
  for (;;) {
    RowWork& w = *opaque_ptr(team.own);
    if (thread_index() == 0) next_pass(plan, w);
    __syncthreads();
    const PassKind kind = w.filter.pass.kind;
    if (kind == kQueryCandidates) {
      query_candidates(team, w.filter.pass.query);
    } else if (kind == kFindBin) {
      find_bin(team, w.filter.pass.query.target);
    } else if (kind == kTotalMass) {
      const uint64_t total = total_mass(team, source.num_tiles, w.options.scale, w.max.reference);
      if (thread_index() == 0) w.total = total;
    } else if (kind == kWeighCandidates) {
      weigh_candidates(team, source.num_tiles);
    } else if (kind == kDrawToken) {
      run_draw_pass(team, source, plan);
    } else if (Source::kHasStats && kind == kWriteTopIds) {
      write_ranked(team, plan.step.details, w.row, w.filter.num_written);
    } else if (Source::kHasStats && kind == kPadTopIds) {
      pad_top_ids(team, plan.step.details);
    } else {
      return clear_for_pass(team, kind, source.num_tiles);
    }
    __syncthreads();
  }
}

// kModelNuclei: the model's normaliser, and the nucleus if it is the defining one.
template <class Team, class Source>
__device__ __forceinline__ void write_normaliser(const Team& team, const Source& source,
                                                 const RowMax& max, Nucleus& out, int model) {
  if (thread_index() == 0) out.valid[model] = max.valid;
  if (!max.valid) return;
  const uint64_t total = total_mass(team, source.num_tiles, team.own->options.scale, max.reference);
  if (thread_index()) return;
  out.log_normaliser[model] =
      kLn2 * ((double(max.reference) - 40.0) + log2_exact_bits(double(total)));
}

// The whole team; `own->options` and the leader's tile_max and tile_mass are set.
template <class Team, class Source>
__device__ __forceinline__ void finish_row(Team team, Source source, const Plan& plan) {
  const bool is_nuclei_stage = plan.stage == kModelNuclei;
  RowWork& w = *team.own;
  const RowMax found = find_row_max(team, source.num_tiles, team.own->options.scale);
  if (is_nuclei_stage) {
    Nucleus& nucleus = plan.workspace.nuclei[w.row - plan.first_row];
    write_normaliser(team, source, found, nucleus, w.model);
    if (!found.valid || w.model != plan.step.conservative - 1) return;
  } else if (!found.valid) {
    if (team.is_leader()) write_invalid(plan.step, w.row);
    return;
  }

  if (thread_index() == 0) start_filters(w, found, plan.step.vocab_size <= kMaxCandidates);
  for (;;) {
    team.own = opaque_ptr(team.own);
    team.leader = Team::kClusters ? opaque_generic_ptr(team.leader) : team.own;
    source.make_opaque();
    if (team.is_leader()) run_leader_passes(team, source, plan);
    team.sync();
    if (!team.is_leader()) {
      if (thread_index() == 0) team.own->filter.pass = team.leader->filter.pass;
      __syncthreads();
    }
    if (team.own->filter.pass.kind == kNoPass) break;
    run_pass(team, source);
  }
  if (is_nuclei_stage && thread_index() == 0) {
    Nucleus& nucleus = plan.workspace.nuclei[w.row - plan.first_row];
    nucleus.t = w.filter.survivors.cutoff.t;
    nucleus.id = w.filter.survivors.cutoff.id;
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_FINISH_CUH_
