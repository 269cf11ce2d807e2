// Plan: what a launch is told, the kernels' only parameter.
#ifndef EFT_CUDA_COMMON_PLAN_CUH_
#define EFT_CUDA_COMMON_PLAN_CUH_

#include "common/dtype.h"
#include "common/row_options.h"
#include "cuda/common/device.cuh"
#include "cuda/common/tile_layout.cuh"

namespace eft {
namespace {

constexpr int kMaxTiles = 512;  // vocabularies up to 2^19
constexpr int64_t kMaxVocab = int64_t(kMaxTiles) * kTile;
constexpr int kMaxLaunchRows = 1024;  // more rows are several launches
constexpr int kMaxStats = 2 * (EFT_MAX_MODELS + 1);

enum LaunchStage : int32_t {
  kSampleRows = 0,   // mix, filter, draw
  kModelNuclei = 1,  // conservative re-weighting (numerics.md §7), first: a "row" is (row, model)
  kMixOnly = 2,      // write z and nothing else
};

// Conservative re-weighting: a row's normalisers and nucleus, after the first launch.
struct Nucleus {
  double log_normaliser[3];
  float t;  // the defining model's cutoff: its nucleus is t above it, or equal to it up to this id
  uint32_t id;
  uint32_t valid[3];
};

// The row's blocks leave this for the one that takes the last ticket. Tickets lie in front and are
// zero between launches; all else is written before it is read.
struct Workspace {
  uint32_t* tickets;    // [kMaxLaunchRows * 3]
  Nucleus* nuclei;      // [rows]
  uint64_t* tile_mass;  // [rows, num_tiles], W_T
  float* tile_max;      // [rows, num_tiles], largest z; NaN where the tile makes its row invalid
  float* group_max;     // [rows, num_tiles, 32], largest z of each group
  float* stats;         // [rows, num_tiles, kMaxStats], for the details
  float* owner_max;     // [rows, num_tiles], the owner's largest logit of an ordinary token (§15)
  float* own_deltas;    // [rows], of rows with own tokens
};

struct Plan {
  eft_step step;
  RowOptions options;  // of every row, where `uniform`; but for seed and position
  Workspace workspace;
  float* z;  // kMixOnly: fp32 [num_rows, vocab_size]; null: own_deltas alone are wanted
  int64_t z_row_stride;
  int64_t first_row;
  int32_t num_tiles;
  int32_t uniform;
  int32_t stage;
  int32_t wants_stats;
  const int64_t* targets;  // scoring's launches before: rows whose target is ignored are not read
  int64_t ignore_index;
};

// The options of one row. Where the host has resolved them the seed and the position are not read
// yet: that would delay the first loads of the logits.
__device__ __forceinline__ RowOptions options_of(const Plan& plan, int64_t row) {
  return plan.uniform ? plan.options : row_options(plan.step, row);
}

// A row's seed and position, as they lie in memory.
struct RowDraw {
  int64_t seed, position;
};

// Reads them on the device, and so in each replay of a graph.
__device__ __forceinline__ RowDraw load_draw(const Plan& plan, int64_t row) {
  return {option_at(plan.step.seed, row), option_at(plan.step.position, row)};
}

__device__ __forceinline__ void set_draw(const Plan& plan, int64_t row, const RowDraw& draw,
                                         RowOptions& o) {
  const uint64_t seed = uint64_t(draw.seed);
  o.seed = plan.step.seed.rows ? seed : row_seed(seed, uint64_t(row));
  o.position = uint64_t(draw.position);
  o.valid &= draw.position >= 0;
}

// One thread of a block, after a barrier: true in the last of gridDim.x blocks, which then sees
// what all of them have written.
__device__ __forceinline__ bool is_last_ticket(uint32_t* tickets_of_row) {
  if (take_ticket(tickets_of_row) != gridDim.x - 1) return false;
  *tickets_of_row = 0;  // for the next launch, or the graph's next replay
  return true;
}

// kModelNuclei: the options of one model's own distribution.
__device__ __forceinline__ RowOptions nucleus_options(RowOptions o) {
  o.weights[0] = 1.0f;
  o.scale = float(kLog2E);
  o.greedy = false;
  o.top_k = 0;
  o.top_p = o.conservative_top_p;
  o.min_p_offset = -INFINITY;
  return o;
}

__device__ __forceinline__ float lowest_of(int dtype) {
  if (dtype == EFT_BF16) return Lowest<Bf16>::value;
  return dtype == EFT_FP16 ? Lowest<Fp16>::value : Lowest<float>::value;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_PLAN_CUH_
