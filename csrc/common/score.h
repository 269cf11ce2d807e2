// The check of a call to score, for every backend.
#ifndef EFT_COMMON_SCORE_H_
#define EFT_COMMON_SCORE_H_

#include "common/error.h"

namespace eft {
namespace {

constexpr int kMaxDistributions = EFT_MAX_MODELS + 1;

// True where a statistic needs the second read.
inline bool compares(const eft_score_stats& s) { return s.tv || s.kl || s.num_changed; }

// Copies the call to `score`, with the fields that only drawing reads set to defaults, and checks
// it.
inline int check_score(const eft_score* given, eft_score& score) {
  if (!given) return fail(EFT_BAD_ARGUMENT, "score: null");
  if (!given->targets) return fail(EFT_BAD_ARGUMENT, "targets: null");
  score = *given;
  const eft_score_stats& s = score.stats;
  if (score.compared < 0 || score.compared >= score.mixture.num_models) {
    return fail(EFT_BAD_ARGUMENT, "compared: expected 0 to %d, got %d",
                score.mixture.num_models - 1, score.compared);
  }
  if (s.num_top < 0 || (s.num_top > 0 && (!s.top_ids || !s.top_logprobs))) {
    return fail(EFT_BAD_ARGUMENT,
                "stats.num_top: expected 0, or addresses of top_ids and top_logprobs, got %d",
                s.num_top);
  }
  const bool lists = s.up_ids && s.up_log_ratios && s.down_ids && s.down_log_ratios;
  if (s.num_changed < 0 || (s.num_changed > 0 && !lists)) {
    return fail(EFT_BAD_ARGUMENT,
                "stats.num_changed: expected 0, or addresses of up and down, got %d",
                s.num_changed);
  }
  score.mixture.temperature = score.mixture.top_p = score.mixture.min_p = {nullptr, 0, 1.0f};
  score.mixture.top_k = score.mixture.seed = score.mixture.position = {nullptr, 0};
  score.mixture.details = {};
  return check_step(&score.mixture);
}

}  // namespace
}  // namespace eft
#endif  // EFT_COMMON_SCORE_H_
