// ScorePlan: what a launch of scoring (numerics.md §9) is told, and what its blocks leave.
#ifndef EFT_CUDA_SCORE_PLAN_CUH_
#define EFT_CUDA_SCORE_PLAN_CUH_

#include "common/score.h"
#include "cuda/step/layout.h"

namespace eft {
namespace {

// One tile of one distribution. With e = exp(x - max): tokens at the maximum are counted and not
// summed, so that 1 - p is computed without cancellation when p is near 1.
struct TileShare {
  float max;                       // the mixture's is NaN where the tile makes its row invalid
  float lower, weighted, squares;  // sum e, e (x - max), e^2 of the tokens below the maximum
  uint32_t maxima;                 // tokens at it
  uint32_t before;                 // tokens that rank before the target
};

// One tile of the second read.
struct TileChange {
  float absolute, divergence;  // sum |p - q|, sum p log(p / q) - p + q
  float up, down;              // the largest p - q and q - p
};

// p, the mixture, and q, the compared model, as exp(x - max) * scale: the second read's input.
struct Pair {
  double rest_p, rest_q;  // lse - max
  double log_scales;      // log scale_p - log scale_q
  float max_p, max_q, scale_p, scale_q;
  int64_t valid;  // if not, nothing but this is written
};

struct ScoreSpace {
  TileShare* shares;    // [rows, K + 1, num_tiles]
  TileChange* changes;  // [rows, num_tiles]
  Pair* pairs;          // [rows]
};

struct ScorePlan {
  Plan mixture;
  const int64_t* targets;
  int64_t ignore_index;
  int32_t compared;
  int32_t compares;  // a second launch follows
  eft_score_stats stats;
  ScoreSpace space;
};

// The tickets in front, as in every layout; the launches before have the step's space.
inline uint64_t lay_out(const eft_score& score, void* base, Workspace& mixture, ScoreSpace& space) {
  const eft_step& step = score.mixture;
  const int64_t rows = rows_at_once(step), tiles = rows * num_tiles_of(step);
  const bool compared = compares(score.stats);
  WorkspaceAllocator allocator(base);
  mixture = Workspace{};
  if (step.conservative || has_own_tokens(step)) {
    allocator.allocate<char>(int64_t(lay_out(step, base, mixture)));
  } else {
    mixture.tickets = allocator.allocate<uint32_t>(kMaxLaunchRows * 3);
  }
  space.shares = allocator.allocate<TileShare>(tiles * (step.num_models + 1));
  space.changes = allocator.allocate<TileChange>(compared ? tiles : 0);
  space.pairs = allocator.allocate<Pair>(compared ? rows : 0);
  return allocator.used();
}

// For rows [first_row, ...) of a checked score.
inline ScorePlan make_plan(const eft_score& score, int64_t first_row, void* workspace) {
  ScorePlan plan{};
  plan.mixture = make_plan(score.mixture, kMixOnly, first_row, nullptr);
  lay_out(score, workspace, plan.mixture.workspace, plan.space);
  plan.targets = score.targets;
  plan.ignore_index = score.ignore_index;
  plan.compared = score.compared;
  plan.compares = compares(score.stats);
  plan.stats = score.stats;
  return plan;
}

// The launches before: kModelNuclei where conservative re-weighting wants it, a "row" for each
// (row, model), then kMixOnly for the deltas of own tokens, without which no target can be ranked.
inline bool comes_before(const eft_score& score, LaunchStage stage) {
  return stage == kModelNuclei ? score.mixture.conservative != 0 : has_own_tokens(score.mixture);
}

inline Plan make_plan_before(const eft_score& score, LaunchStage stage, int64_t first_row,
                             void* workspace) {
  Plan plan = make_plan(score.mixture, stage, first_row, workspace);
  plan.targets = score.targets;
  plan.ignore_index = score.ignore_index;
  return plan;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_SCORE_PLAN_CUH_
