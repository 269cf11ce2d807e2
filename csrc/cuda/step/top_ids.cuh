// The first of a row's rank at temperature 1, as `top_logprobs` asks for: a launch behind the
// step's, which leaves the tiles' and the groups' maxima in the workspace. Apart, since few ask for
// it, and it would be a third of the step's code.
#ifndef EFT_CUDA_STEP_TOP_IDS_CUH_
#define EFT_CUDA_STEP_TOP_IDS_CUH_

#include "cuda/step/details.cuh"
#include "cuda/step/set_up.cuh"
#include "cuda/step/source.cuh"
#include "cuda/step/whole_row.cuh"

namespace eft {
namespace {

constexpr int kMaxTopIdsAtOnce = kMaxCandidates / 2;

// The candidates up to `last` in order of the rank, behind the `before` that are written.
template <class Team>
__device__ __forceinline__ void write_ranked(const Team& team, const eft_details& d, uint64_t last,
                                             int before) {
  const RowWork& w = *team.own;
  const int count = int(w.num_candidates);
  const int64_t at = w.row * d.num_top;
#pragma unroll 1
  for (int i = thread_index(); i < count; i += Team::kThreads) {
    const uint64_t key = w.candidates[i];
    if (key > last) continue;
    int rank = before;
    for (int j = 0; j < count; ++j) rank += w.candidates[j] < key;
    d.top_ids[at + rank] = int64_t(key_id(key));
    d.top_logprobs[at + rank] = float((double(key_t(key)) - w.maxima[0]) - w.log_sums[0]);
  }
}

// The first `count` keys from `low` on become candidates, perhaps with more. Returns the last of
// those `count`, or the last key there can be where fewer are left.
template <class Team, class Source>
__device__ __forceinline__ uint64_t find_first(const Team& team, const Source& source, float max_z,
                                               uint64_t low, int count) {
  uint64_t last = ~uint64_t(0);
  RankQuery q = count_query(uint64_t(count), max_z);
  if (low == 0 && count <= kMaxCandidates / 4) {
    GroupMaxima<Team::kThreads> maxima;
    float at_least;
    if (bound_of_top_k(team, source, maxima, max_z, 1.0f, q.target, at_least) &&
        gather_above(team, source, maxima, at_least, 1.0f, 0, 0.0f)) {
      query_candidates(team, q, last);
      return last;
    }
    __syncthreads();
  }
  q.low = low;
  query_row(team, source, q, 1.0f, last);
  if (thread_index() == 0) team.own->num_candidates = 0;
  __syncthreads();
  gather_range(team, source, low, last, 1.0f);
  return last;
}

// Grid: rows.
__device__ __forceinline__ void write_top_ids(const Plan& plan) {
  RowWork& w = *reinterpret_cast<RowWork*>(dynamic_shared());
  const eft_details& d = plan.step.details;
  const int64_t row = plan.first_row + blockIdx.x;
  if (plan.step.tokens[row] < 0) return;  // an invalid row, which the step has filled
  clear_row_work<kStreamThreads>(w);
  if (threadIdx.x == 0) {
    set_up_row(plan, row, 0, w);
    if (w.inputs.owner >= 0) set_own_delta(w.inputs, plan.workspace.own_deltas[blockIdx.x]);
  }
  __syncthreads();
  const auto team = one_block_team(w);
  const StreamSource<0, true> source = {&w, plan.num_tiles, &plan.workspace,
                                        int64_t(blockIdx.x) * plan.num_tiles};
  source.put_tiles(source.load_tiles(), w);
  const RowMax max = row_max_of(w, plan.num_tiles, 1.0f);
  normalise(team, plan, source.stats(), max.z);
  int written = 0;
  uint64_t next_key = 0;
#pragma unroll 1
  while (written < d.num_top) {
    const int count = smaller(d.num_top - written, kMaxTopIdsAtOnce);
    const uint64_t last = find_first(team, source, max.z, next_key, count);
    write_ranked(team, d, last, written);
    next_key = last + 1;
    written += next_key ? count : int(w.num_candidates);
    if (!next_key) break;
    __syncthreads();
  }
#pragma unroll 1
  for (int i = written + int(thread_index()); i < d.num_top; i += kStreamThreads) {
    d.top_ids[row * d.num_top + i] = -1;
    d.top_logprobs[row * d.num_top + i] = -INFINITY;
  }
}

__global__ void __launch_bounds__(kStreamThreads, 2)
    top_ids_kernel(const __grid_constant__ Plan plan) {
  write_top_ids(plan);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_TOP_IDS_CUH_
