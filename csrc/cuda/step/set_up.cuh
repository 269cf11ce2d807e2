// A row's options and inputs, set up by one thread of each of its blocks.
#ifndef EFT_CUDA_STEP_SET_UP_CUH_
#define EFT_CUDA_STEP_SET_UP_CUH_

#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

// Thread 0 of each block. A row without valid nuclei is invalid.
__device__ __forceinline__ void set_up_row(const Plan& plan, int64_t row, int model, RowWork& w) {
  RowOptions& o = w.options;
  o = options_of(plan, row);
  w.row = row;
  w.model = model;
  if (plan.stage == kModelNuclei) {
    o = nucleus_options(o);
  } else if (plan.step.conservative && o.conservative_top_p != kWhole) {
    const Nucleus& nucleus = plan.workspace.nuclei[row - plan.first_row];
    o.valid &= nucleus.valid[0] && nucleus.valid[1] && nucleus.valid[2];
  }
  if (o.valid) set_row_inputs(plan, o, row, model, w.inputs);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_SET_UP_CUH_
