// Speculative verification on CUDA (numerics.md §8), in two launches: the distributions of all
// positions are streamed and weighed at once (slot.cuh), then each row decides (decide.cuh).
#ifndef EFT_CUDA_VERIFY_PLAN_CUH_
#define EFT_CUDA_VERIFY_PLAN_CUH_

#include "common/verify.h"
#include "cuda/common/plan.cuh"
#include "cuda/common/rank.cuh"
#include "cuda/common/row_inputs.cuh"

namespace eft {
namespace {

// Masses of a slot's distribution, filtered; not of greedy ones.
struct SlotMass {
  uint64_t mass;        // S, of the survivors
  uint64_t draft_mass;  // of the drafted token, at the reference
  float reference;      // A
  Cutoff cutoff;
};

// A row has 2k + 1 slots: the mixture at positions 0 to k, then the draft model at 0 to k - 1.
struct VerifyPlan {
  Plan mixture, draft;  // of position 0, with one workspace; `mixture.step.tokens` is [slots]:
                        // greedy: the largest z's token; else 0; -1 where the slot is invalid
  int64_t logits_position_stride[EFT_MAX_MODELS];
  int64_t draft_position_stride;
  int64_t token_bitmask_position_stride;
  const int64_t* drafts;
  eft_integer lengths;
  int32_t num_drafts;
  int32_t num_rows;     // of this launch
  SlotMass* slot_mass;  // [slots]
  uint64_t* residual;   // [rows, num_tiles], the sums of rho
  int64_t* tokens;      // the results
  int64_t* num_accepted;
  int32_t* status;
};

__device__ __forceinline__ int slots_of_row(const VerifyPlan& v) { return 2 * v.num_drafts + 1; }
__device__ __forceinline__ int slot_of(const VerifyPlan& v, int row_of_launch, int position,
                                       bool drafted) {
  return row_of_launch * slots_of_row(v) + position + (drafted ? v.num_drafts + 1 : 0);
}

__device__ __forceinline__ const Nucleus& nucleus_at(const VerifyPlan& v, int64_t row,
                                                     int position) {
  const Plan& plan = v.mixture;
  return plan.workspace.nuclei[int64_t(position) * v.num_rows + (row - plan.first_row)];
}

// The mixture, or the draft model, of a row at a position.
__device__ __forceinline__ void inputs_at(const VerifyPlan& v, const RowOptions& o, int64_t row,
                                          int position, bool drafted, RowInputs& inputs) {
  const Plan& plan = drafted ? v.draft : v.mixture;
  set_models(plan, o, row, 0, inputs);
#pragma unroll 1
  for (int k = 0; k < plan.step.num_models; ++k) {
    const int64_t stride = drafted ? v.draft_position_stride : v.logits_position_stride[k];
    inputs.models[k].logits += position * stride * (inputs.models[k].dtype == EFT_FP32 ? 4 : 2);
  }
  if (inputs.token_bitmask) inputs.token_bitmask += position * v.token_bitmask_position_stride;
  if (inputs.conservative) set_nucleus(plan.step, o, nucleus_at(v, row, position), inputs);
  inputs.all_bf16 = is_all_bf16(inputs);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_VERIFY_PLAN_CUH_
