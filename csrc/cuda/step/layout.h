// The host's half of a launch: the workspace laid out, and the plan that the kernels read.
#ifndef EFT_CUDA_STEP_LAYOUT_H_
#define EFT_CUDA_STEP_LAYOUT_H_

#include "cuda/common/plan.cuh"
#include "cuda/common/workspace_allocator.h"

namespace eft {
namespace {

inline int num_tiles_of(const eft_step& step) { return int((step.vocab_size + kTile - 1) / kTile); }

// Rows of one launch. All of the workspace but the tickets grows with them.
inline int64_t rows_at_once(const eft_step& step) {
  return step.num_rows < kMaxLaunchRows ? step.num_rows : kMaxLaunchRows;
}

inline bool wants_stats(const eft_details& d) {
  return d.raw_logprobs || d.entropy || d.model_logprobs || d.num_top;
}

inline bool has_own_tokens(const eft_step& step) {
  return step.special.tiles && step.special.owner >= 0;
}

static_assert(kMaxLaunchRows * 3 * sizeof(uint32_t) == EFT_CUDA_TICKET_BYTES, "as eft.h says");

// The tickets come first and take the same room in every layout: they have to be zero between
// launches of different shapes.
inline uint64_t lay_out(const eft_step& step, void* base, Workspace& space) {
  WorkspaceAllocator allocator(base);
  const int64_t rows = rows_at_once(step);
  const int64_t tiles = rows * (step.conservative ? 3 : 1) * num_tiles_of(step);
  space.tickets = allocator.allocate<uint32_t>(kMaxLaunchRows * 3);
  space.nuclei = allocator.allocate<Nucleus>(step.conservative ? rows : 0);
  space.tile_mass = allocator.allocate<uint64_t>(tiles);
  space.tile_max = allocator.allocate<float>(tiles);
  space.group_max = allocator.allocate<float>(tiles * kGroups);
  space.stats = allocator.allocate<float>(wants_stats(step.details) ? tiles * kMaxStats : 0);
  space.owner_max = allocator.allocate<float>(has_own_tokens(step) ? tiles : 0);
  space.own_deltas = allocator.allocate<float>(has_own_tokens(step) ? rows : 0);
  return allocator.used();
}

inline bool is_uniform(const eft_step& s) {
  bool rows = s.temperature.rows || s.top_k.rows || s.top_p.rows || s.min_p.rows;
  rows |= s.conservative && s.conservative_top_p.rows;
  for (int k = 0; k < s.num_models; ++k) rows |= s.weights[k].rows != nullptr;
  return !rows;
}

// For rows [first_row, ...) of a step; `z` is null but for kMixOnly.
inline Plan make_plan(const eft_step& step, LaunchStage stage, int64_t first_row, void* workspace,
                      float* z = nullptr, int64_t z_row_stride = 0) {
  Plan plan{};
  plan.step = step;
  plan.stage = stage;
  plan.first_row = first_row;
  plan.num_tiles = num_tiles_of(step);
  plan.z = z;
  plan.z_row_stride = z_row_stride;
  plan.wants_stats = stage == kSampleRows && wants_stats(step.details);
  plan.uniform = is_uniform(step);
  lay_out(step, workspace, plan.workspace);
  if (plan.uniform) {
    eft_step scalars = step;  // seed and position may be addresses of the device's
    scalars.seed = {nullptr, 0};
    scalars.position = {nullptr, 0};
    plan.options = row_options(scalars, 0);
  }
  return plan;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_LAYOUT_H_
