// The filters of a row (numerics.md §4): which are on, and what they do to the cutoff. The way
// that usual rows take is in candidates.cuh, the others' in whole_row.cuh.
//
// A new filter is a member of Filters, a bound for its candidates (gather_candidates), and a step
// in the order of filter_candidates and filter_row.
#ifndef EFT_CUDA_STEP_FILTERS_CUH_
#define EFT_CUDA_STEP_FILTERS_CUH_

#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

struct Filters {
  bool top_k, top_p, min_p;
  bool wants_count;  // the number of survivors is asked for, filtered or not

  __device__ bool any() const { return top_k | top_p | min_p | wants_count; }
};

__device__ __forceinline__ Filters filters_of(const Plan& plan, const RowOptions& o) {
  const bool samples = (plan.stage != kModelNuclei) & !o.greedy;
  Filters on;
  on.top_k = samples & (o.top_k > 0) & (o.top_k < plan.step.vocab_size);
  on.top_p = !o.greedy & (o.top_p < kWhole);
  on.min_p = samples & (o.min_p_offset > -INFINITY);
  on.wants_count = samples & (plan.step.details.num_kept != nullptr);
  return on;
}

__device__ __forceinline__ Cutoff all_survive() { return {kLowestT, kLastId}; }

// Decides top_k's ties: all tokens of the k-th largest t survive, whatever their ids.
__device__ __forceinline__ Cutoff cutoff_with_ties(uint64_t kth_key) {
  return {key_t(kth_key), kLastId};
}

__device__ __forceinline__ Cutoff cutoff_at(uint64_t key) { return {key_t(key), key_id(key)}; }

// The lowest t that min_p keeps.
__device__ __forceinline__ float min_p_bound(const RowMax& max, const RowOptions& o) {
  return fmaxf(max.t + o.min_p_offset, kLowestT);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_FILTERS_CUH_
