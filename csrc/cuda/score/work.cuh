// The shared memory of a scoring block, its set-up, the ticket that says which block finishes a
// row, and rows without statistics.
#ifndef EFT_CUDA_SCORE_WORK_CUH_
#define EFT_CUDA_SCORE_WORK_CUH_

#include "cuda/common/special.cuh"
#include "cuda/score/plan.cuh"
#include "cuda/score/sums.cuh"

namespace eft {
namespace {

constexpr int kScoreThreads = 256;
constexpr int kScoreWarps = kScoreThreads / 32;
static_assert(kMaxDistributions <= kScoreWarps, "a warp finishes a distribution");

struct alignas(16) ScoreWork {
  RowOptions options;
  RowInputs inputs;
  RowSums sums[kMaxDistributions];
  union {
    float tiles[kScoreWarps][kTile];  // of each warp, while the row is read
    struct {                          // of each distribution's warp, while the row is finished
      float tiles[kMaxDistributions][kTile];
      uint64_t bounds[kMaxDistributions][kMaxTiles];
    } lists;
  };
  Pair pair;
  int64_t row, target;
  float target_logits[kMaxDistributions];
  int32_t stride;  // from one tile of a warp to its next
  int32_t status;
  uint32_t is_last;
};

static_assert(sizeof(ScoreWork) <= 48 * 1024, "more has to be asked for");

// Thread 0 of each block.
__device__ __forceinline__ void set_up_score_row(const ScorePlan& plan, int slot, int64_t row,
                                                 ScoreWork& w) {
  const Plan& mixture = plan.mixture;
  w.row = row;
  w.stride = kScoreWarps * int(gridDim.x);
  w.target = plan.targets[row];
  w.status = 0;
  if (w.target == plan.ignore_index) {
    w.status = 2;
    return;
  }
  RowOptions& o = w.options;
  o = options_of(mixture, row);
  if (mixture.step.conservative && o.conservative_top_p != kWhole) {
    const Nucleus& nucleus = mixture.workspace.nuclei[slot];
    o.valid &= nucleus.valid[0] && nucleus.valid[1] && nucleus.valid[2];
  }
  if (!o.valid || w.target < 0 || w.target >= mixture.step.vocab_size) {
    w.status = 1;
    return;
  }
  set_row_inputs(mixture, o, row, 0, w.inputs);
  if (w.inputs.owner >= 0) set_own_delta(w.inputs, mixture.workspace.own_deltas[slot]);
}

// True for all threads of the block that takes the row's last ticket, and so finishes the row.
__device__ __forceinline__ bool takes_last_score_ticket(uint32_t* ticket, uint32_t& is_last) {
  __syncthreads();
  if (threadIdx.x == 0) is_last = is_last_ticket(ticket);
  __syncthreads();
  return is_last;
}

template <class T, class Value>
__device__ __forceinline__ void put(T* array, int64_t at, Value value) {
  if (array) array[at] = T(value);
}

template <class T>
__device__ __forceinline__ void fill(T* array, int64_t row, int64_t count, T value) {
  for (int64_t i = threadIdx.x; array && i < count; i += kScoreThreads) {
    array[row * count + i] = value;
  }
}

// The whole block: NaN where the row is invalid, 0 where it is ignored.
__device__ __forceinline__ void write_blank(const ScorePlan& plan, const ScoreWork& w) {
  const eft_score_stats& s = plan.stats;
  const float blank = w.status == 1 ? NAN : 0.0f;
  const int64_t count = plan.mixture.step.num_models + 1;
  fill(s.lse, w.row, count, double(blank));
  fill(s.logprobs, w.row, count, blank);
  fill(s.entropy, w.row, count, blank);
  fill(s.max_prob, w.row, count, blank);
  fill(s.log1m_max, w.row, count, blank);
  fill(s.sum_squares, w.row, count, blank);
  fill(s.argmax, w.row, count, int64_t(-1));
  fill(s.rank, w.row, count, int64_t(-1));
  fill(s.top_ids, w.row, count * s.num_top, int64_t(-1));
  fill(s.top_logprobs, w.row, count * s.num_top, blank);
  fill(s.tv, w.row, 1, blank);
  fill(s.kl, w.row, 1, blank);
  fill(s.up_ids, w.row, s.num_changed, int64_t(-1));
  fill(s.up_log_ratios, w.row, s.num_changed, blank);
  fill(s.down_ids, w.row, s.num_changed, int64_t(-1));
  fill(s.down_log_ratios, w.row, s.num_changed, blank);
  fill(s.status, w.row, 1, w.status);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_SCORE_WORK_CUH_
