// The finish of a row, once all of its tiles are summarised: filters, draw, results.
#ifndef EFT_CUDA_STEP_FINISH_CUH_
#define EFT_CUDA_STEP_FINISH_CUH_

#include "cuda/step/details.cuh"
#include "cuda/step/draw.cuh"
#include "cuda/step/whole_row.cuh"

namespace eft {
namespace {

// One thread: the row's token, with its t, and what is asked for of both.
__device__ __forceinline__ void write_drawn(const Plan& plan, const RowWork& w, const RowMax& max,
                                            int token, float t, uint64_t total) {
  const eft_details& d = plan.step.details;
  const int64_t row = w.row;
  const bool greedy = w.options.greedy;
  plan.step.tokens[row] = token;
  if (d.status) d.status[row] = 0;
  if (d.num_kept) d.num_kept[row] = greedy ? 1 : int32_t(w.num_kept);
  if (d.logprobs) d.logprobs[row] = greedy ? 0.0f : logprob_of(t, max, total);
}

// The leader's block draws the row's token. (verify/slot.cuh has an overload for its source.)
template <class Team, class Source>
__device__ __forceinline__ void conclude_row(const Team& team, const Source& source,
                                             const Plan& plan, const RowMax& max,
                                             const Survivors& s) {
  RowWork& w = *team.own;
  const RowOptions& o = w.options;
  TileDraw draw = {0, 0, 0};
  float a = 0.0f;  // the tile's reference
  if (o.greedy) {
    draw.tile = first_tile_with(w, source.num_tiles, max.z);
  } else {
    const uint64_t* masses = s.limited ? w.survivor_mass : w.tile_mass;
    draw = draw_tile(w, masses, source.num_tiles, o.scale, max.reference, w.draw_bits);
    a = floorf(w.tile_max[draw.tile] * o.scale);
  }
  Drawn drawn;
  const SurvivorMass mass = {s.cutoff, o.scale, a};
  const uint64_t last = rank_key(s.cutoff.t, s.cutoff.id);
  if (!s.in_candidates || !draw_candidate(team, draw.tile, draw.offset, last, a, drawn)) {
    drawn = draw_in_tile(team, source, draw.tile, draw.offset, [&](int id, float z) -> uint64_t {
      return o.greedy ? z == max.z : mass(id, z);
    });
    drawn.at *= o.scale;
  }
  if (drawn.token >= 0) write_drawn(plan, w, max, drawn.token, drawn.at, draw.total);
  if constexpr (Source::kHasStats) {
    const eft_details& d = plan.step.details;
    if (!d.raw_logprobs && !d.entropy && !d.model_logprobs) return;
    if (drawn.token >= 0) w.token = drawn.token;
    __syncthreads();
    write_temperature_one(team, source, plan, max.z);
  }
}

// kModelNuclei: the model's normaliser, and the nucleus if it is the defining one.
__device__ __forceinline__ void write_nucleus(const Plan& plan, const RowWork& w, const RowMax& max,
                                              uint64_t total, const Cutoff& cutoff) {
  if (thread_index()) return;
  Nucleus& out = plan.workspace.nuclei[w.row - plan.first_row];
  out.valid[w.model] = max.valid;
  if (!max.valid) return;
  out.log_normaliser[w.model] =
      kLn2 * ((double(max.reference) - 40.0) + log2_exact_bits(double(total)));
  if (w.model != plan.step.conservative - 1) return;
  out.t = cutoff.t;
  out.id = cutoff.id;
}

// The whole team; `own->options` is set, and the tiles' summaries are there for the source.
template <class Team, class Source>
__device__ __forceinline__ void finish_row(const Team& team, const Source& source,
                                           const Plan& plan) {
  RowWork& w = *team.own;
  const RowOptions& o = w.options;
  const bool is_nuclei_stage = plan.stage == kModelNuclei;
  Filters on;
  GroupMaxima<Team::kThreads> maxima;
  typename Source::Tiles tiles;
  {
    [[maybe_unused]] const OneRoundTrip together;
    tiles = source.load_tiles();
    on = filters_of(plan, o);
    if (is_nuclei_stage && w.model != plan.step.conservative - 1) on = {};
    if (on.any()) maxima.load(source, 0);
  }
  source.put_tiles(tiles, w);
  const RowMax max = row_max_of(w, source.num_tiles, o.scale);
  if (!max.valid) {
    if (is_nuclei_stage) return write_nucleus(plan, w, max, 0, all_survive());
    if (team.is_leader()) write_invalid(plan.step, w.row);
    return;
  }

  uint64_t total = 0;
  if (on.top_p || is_nuclei_stage) {
    total = total_mass(w, w.tile_mass, source.num_tiles, o.scale, max.reference);
  }
  Survivors s = {all_survive(), on.any(), false};
  if (on.any()) {
    s.in_candidates = gather_candidates(team, source, maxima, on, max, plan.step.vocab_size, total);
    if (!s.in_candidates) {
      s.cutoff = filter_row(team, source, on, max, total, !is_nuclei_stage);
    } else if (team.is_leader()) {
      s.cutoff = filter_candidates(team, on, max, source.num_tiles, total);
      if (!is_nuclei_stage) weigh_candidates(team, s.cutoff, o.scale);
    }
  }
  if (is_nuclei_stage) {
    write_nucleus(plan, w, max, total, s.cutoff);
  } else if (team.is_leader()) {
    conclude_row(team, source, plan, max, s);
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_FINISH_CUH_
