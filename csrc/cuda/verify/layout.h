// The host's half of a verification: its workspace and its plans.
#ifndef EFT_CUDA_VERIFY_LAYOUT_H_
#define EFT_CUDA_VERIFY_LAYOUT_H_

#include "cuda/step/layout.h"
#include "cuda/verify/plan.cuh"

namespace eft {
namespace {

constexpr int kMaxSlots = kMaxLaunchRows * 3;  // as many as there are tickets
constexpr int kMaxDrafts = (kMaxSlots - 1) / 2;

// Slots of a row in the workspace: three at least, since its nuclei are streamed in them too.
inline int64_t room_of_row(const eft_verify& v) {
  return v.num_drafts ? 2 * int64_t(v.num_drafts) + 1 : 3;
}

// Rows of one launch. All of the workspace but the tickets grows with them.
inline int64_t rows_at_once(const eft_verify& v) {
  const int64_t most = kMaxSlots / room_of_row(v);
  return v.step.num_rows < most ? v.step.num_rows : most;
}

struct VerifySpace {
  Workspace tiles;  // a "row" is a slot; nuclei are [num_drafts + 1, rows]
  int64_t* tokens;  // [slots]
  SlotMass* slot_mass;
  uint64_t* residual;
};

// The tickets come first, as in a step's workspace: the two may share one.
inline uint64_t lay_out(const eft_verify& v, void* base, VerifySpace& space) {
  WorkspaceAllocator allocator(base);
  const int64_t rows = rows_at_once(v), num_tiles = num_tiles_of(v.step);
  const int64_t slots = rows * room_of_row(v), tiles = slots * num_tiles;
  space.tiles = {};
  space.tiles.tickets = allocator.allocate<uint32_t>(kMaxSlots);
  space.tiles.nuclei =
      allocator.allocate<Nucleus>(v.step.conservative ? rows * (v.num_drafts + 1) : 0);
  space.tiles.tile_mass = allocator.allocate<uint64_t>(tiles);
  space.tiles.tile_max = allocator.allocate<float>(tiles);
  space.tiles.group_max = allocator.allocate<float>(tiles * kGroups);
  space.tiles.owner_max = allocator.allocate<float>(has_own_tokens(v.step) ? tiles : 0);
  space.tiles.own_deltas = allocator.allocate<float>(has_own_tokens(v.step) ? slots : 0);
  space.tokens = allocator.allocate<int64_t>(slots);
  space.slot_mass = allocator.allocate<SlotMass>(slots);
  space.residual = allocator.allocate<uint64_t>(rows * num_tiles);
  return allocator.used();
}

inline VerifyPlan make_plan(const eft_verify& v, int64_t first_row, const VerifySpace& space) {
  VerifyPlan plan{};
  eft_step step = v.step;
  step.details = {};
  step.tokens = space.tokens;
  plan.mixture = make_plan(step, kSampleRows, first_row, nullptr);
  plan.draft = make_plan(draft_at(v, step, 0), kSampleRows, first_row, nullptr);
  plan.mixture.workspace = plan.draft.workspace = space.tiles;
  for (int k = 0; k < EFT_MAX_MODELS; ++k) {
    plan.logits_position_stride[k] = v.logits_position_stride[k];
  }
  plan.draft_position_stride = v.draft_position_stride;
  plan.token_bitmask_position_stride = v.token_bitmask_position_stride;
  plan.drafts = v.drafts;
  plan.lengths = v.lengths;
  plan.num_drafts = v.num_drafts;
  const int64_t left = v.step.num_rows - first_row, most = rows_at_once(v);
  plan.num_rows = int32_t(left < most ? left : most);
  plan.slot_mass = space.slot_mass;
  plan.residual = space.residual;
  plan.tokens = v.tokens;
  plan.num_accepted = v.num_accepted;
  plan.status = v.status;
  return plan;
}

// The step's own first launch, for the nuclei of all rows at one position, in three slots of each
// row.
inline Plan nuclei_plan(const eft_verify& v, const VerifyPlan& whole, int position) {
  eft_step step = step_at(v, position);
  step.details = {};
  Plan plan = make_plan(step, kModelNuclei, whole.mixture.first_row, nullptr);
  plan.workspace = whole.mixture.workspace;
  plan.workspace.nuclei += int64_t(position) * whole.num_rows;
  return plan;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_VERIFY_LAYOUT_H_
