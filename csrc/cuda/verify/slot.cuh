// The first launch of a verification: a slot is streamed as a row of a step is, and its last block
// filters it. Instead of a draw it leaves the masses that a draw or an acceptance will need.
#ifndef EFT_CUDA_VERIFY_SLOT_CUH_
#define EFT_CUDA_VERIFY_SLOT_CUH_

#include "cuda/step/stream.cuh"
#include "cuda/verify/plan.cuh"

namespace eft {
namespace {

struct SlotWork : RowWork {
  int64_t draft;  // the drafted token at this position
  uint32_t is_needed;
  SlotMass* slot_mass;
  uint64_t* survivors;  // in the workspace: tile_mass of this slot
};

template <bool kConservative>
struct SlotSource : StreamSource<0, kConservative> {
  static constexpr bool kHasStats = false;
};

// As mix_tile: one kernel for any number of bf16 models, since the finish is most of its code.
template <bool kConservative>
__device__ __forceinline__ bool mix_slot_tile(const RowInputs& inputs, int tile, int lane,
                                              float* z) {
  const int id = piece_id(tile, 0, lane);
  if (inputs.all_bf16 && (tile + 1) * kTile <= inputs.vocab_size) {
    if (inputs.num_terms == 1) return mix_bf16_tile<1>(inputs, id, z);
    if constexpr (!kConservative) {
      if (inputs.num_terms == 2) return mix_bf16_tile<2>(inputs, id, z);
      if (inputs.num_terms == 3) return mix_bf16_tile<3>(inputs, id, z);
      return mix_bf16_tile<4>(inputs, id, z);
    }
  }
  return mix_ordinary<4, kConservative>(inputs, id, kTile / 4, z);
}

// Thread 0. Not needed, and so not read: a greedy draft model, or one beside a greedy mixture; what
// lies behind a row's last draft; a row or position that is invalid anyway.
__device__ __forceinline__ void set_up_slot(const VerifyPlan& v, int slot, SlotWork& w) {
  const int in_row = slot % slots_of_row(v);
  const bool drafted = in_row > v.num_drafts;
  const int position = drafted ? in_row - v.num_drafts - 1 : in_row;
  const Plan& plan = drafted ? v.draft : v.mixture;
  const int64_t row = plan.first_row + slot / slots_of_row(v);
  const int64_t length = option_at(v.lengths, row);
  RowOptions& o = w.options;
  o = options_of(plan, row);
  w.is_needed = 0;
  w.row = slot;  // finish_row writes tokens[slot]
  w.draft = 0;
  if (!o.valid || length > v.num_drafts || position + drafted > length) return;
  if (position < length) w.draft = v.drafts[row * v.num_drafts + position];
  if (w.draft < 0 || w.draft >= plan.step.vocab_size) return;
  if (drafted && (o.greedy || option_at(v.mixture.step.temperature, row) < kGreedyBelow)) return;
  w.is_needed = 1;
  w.slot_mass = v.slot_mass + slot;
  w.survivors = plan.workspace.tile_mass + int64_t(slot) * plan.num_tiles;
  if (plan.step.conservative && o.conservative_top_p != kWhole) {
    const Nucleus& nucleus = nucleus_at(v, row, position);
    o.valid = nucleus.valid[0] && nucleus.valid[1] && nucleus.valid[2];
  }
  if (o.valid) inputs_at(v, o, row, position, drafted, w.inputs);
}

// Ends finish_row for a slot, an overload of finish.cuh's: leaves what a draw or an acceptance will
// need, of a greedy slot its token.
template <class Team, bool kConservative>
__device__ __forceinline__ void conclude_row(const Team& team,
                                             const SlotSource<kConservative>& source,
                                             const Plan& plan, const RowMax& max,
                                             const Survivors& s) {
  SlotWork& w = static_cast<SlotWork&>(*team.own);
  const RowOptions& o = w.options;
  if (o.greedy) {
    const int tile = first_tile_with(w, source.num_tiles, max.z);
    const Drawn first =
        draw_in_tile(team, source, tile, 0, [&](int, float z) -> uint64_t { return z == max.z; });
    if (first.token >= 0) plan.step.tokens[w.row] = first.token;
    return;
  }
  const uint64_t* masses = s.limited ? w.survivor_mass : w.tile_mass;
  const uint64_t total = total_mass(w, masses, source.num_tiles, o.scale, max.reference);
#pragma unroll 1
  for (int i = thread_index(); i < source.num_tiles; i += Team::kThreads)
    w.survivors[i] = masses[i];
  if (thread_index()) return;
  plan.step.tokens[w.row] = 0;
  const float t = z_of_token(source, int(w.draft)) * o.scale;
  const bool kept = keeps(s.cutoff, t, uint32_t(w.draft));
  *w.slot_mass = {total, kept ? token_mass(t, max.reference) : 0, max.reference, s.cutoff};
}

// Grid: (blocks a slot, slots).
template <bool kConservative>
__device__ __forceinline__ void stream_slot(const VerifyPlan& v) {
  SlotWork& w = *reinterpret_cast<SlotWork*>(dynamic_shared());
  const Plan& plan = v.mixture;
  const int slot = int(blockIdx.y);
  clear_row_work<kStreamThreads>(w);
  if (threadIdx.x == 0) set_up_slot(v, slot, w);
  __syncthreads();
  if (!w.is_needed) return;

  const bool masses = !w.options.greedy, special = plan.step.special.tiles;
  const int lane = threadIdx.x % 32;
  const Workspace& space = plan.workspace;
  const auto read = [&](int tile) {
    float z[kGroup];
    bool bad = mix_slot_tile<kConservative>(w.inputs, tile, lane, z);
    if (special) bad = set_special<4>(w.inputs, piece_id(tile, 0, lane), kTile / 4, z, bad);
    const TileSummary s = summarise<kConservative>(w.inputs, tile, lane, z, bad, masses);
    const int64_t at = int64_t(slot) * plan.num_tiles + tile;
    space.group_max[at * kGroups + lane] = s.group_max;
    if (lane == 0) space.tile_max[at] = s.max, space.tile_mass[at] = s.mass;
    if (special && needs_own_delta(w.inputs)) {
      const float largest = largest_of_owner(w.inputs, tile, lane, z);
      if (lane == 0) space.owner_max[at] = largest;
    }
  };
  const int64_t row = plan.first_row + slot / slots_of_row(v);
  const auto takes_last = [&] { return takes_last_ticket(plan, slot, row, w); };
  if (!read_tiles(plan, slot, w.options.valid, w, read, takes_last)) return;
  if (!w.options.valid) return write_invalid(plan.step, slot);
  const SlotSource<kConservative> source = {
      {&w, plan.num_tiles, &space, int64_t(slot) * plan.num_tiles}};
  finish_row(one_block_team(w), source, plan);
}

// Blocks as for stream_kernel.
template <bool kConservative>
__global__ void __launch_bounds__(kStreamThreads, kConservative ? 1 : 2)
    verify_stream_kernel(const __grid_constant__ VerifyPlan v) {
  stream_slot<kConservative>(v);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_VERIFY_SLOT_CUH_
