// Writes a row's statistics into the caller's arrays.
#ifndef EFT_CPU_SCORE_WRITE_H_
#define EFT_CPU_SCORE_WRITE_H_

#include "cpu/score_row.h"

namespace eft {
namespace {

template <class T, class Value>
void put(T* array, int64_t at, Value value) {
  if (array) array[at] = T(value);
}

// Writes a row without statistics: NaN where it is invalid, 0 where it is ignored (numerics.md
// §10).
inline void write_blank(const eft_score& score, int64_t row, int status) {
  const eft_score_stats& s = score.stats;
  const float blank = status == 1 ? NAN : 0.0f;
  const int64_t count = score.mixture.num_models + 1;
  for (int64_t at = row * count; at < (row + 1) * count; ++at) {
    put(s.lse, at, blank);
    for (float* field : {s.logprobs, s.entropy, s.max_prob, s.log1m_max, s.sum_squares}) {
      put(field, at, blank);
    }
    put(s.argmax, at, -1);
    put(s.rank, at, -1);
    for (int64_t i = at * s.num_top; i < (at + 1) * s.num_top; ++i) {
      put(s.top_ids, i, -1);
      put(s.top_logprobs, i, blank);
    }
  }
  put(s.tv, row, blank);
  put(s.kl, row, blank);
  for (int64_t i = row * s.num_changed; i < (row + 1) * s.num_changed; ++i) {
    put(s.up_ids, i, -1);
    put(s.down_ids, i, -1);
    put(s.up_log_ratios, i, blank);
    put(s.down_log_ratios, i, blank);
  }
  put(s.status, row, status);
}

inline void write_changed(const TopN& best, int n, int64_t row, int64_t* ids, float* log_ratios) {
  for (int i = 0; i < n; ++i) {
    const bool there = i < best.count();
    put(ids, row * n + i, there ? best[i].id : -1);
    put(log_ratios, row * n + i, there ? best[i].other : 0.0f);
  }
}

template <class Mixer>
void write_distribution(ScoredRow<Mixer>& scored, int d) {
  const eft_score_stats& s = scored.score.stats;
  const Sums& sums = scored.sums[d];
  const int64_t at = scored.row * (scored.models() + 1) + d;
  const int64_t largest = scored.argmax(d);
  const double log_others = scored.log_others(d, largest);  // first, since it may refine the sums
  put(s.lse, at, sums.lse());
  put(s.logprobs, at, sums.logprob(scored.at_target[d]));
  put(s.entropy, at, sums.entropy());
  put(s.max_prob, at, sums.max_prob());
  put(s.log1m_max, at, log_others - sums.log_relative());
  put(s.sum_squares, at, sums.sum_squares());
  put(s.argmax, at, largest);
  put(s.rank, at, sums.before);
  for (int i = 0; i < s.num_top; ++i) {
    const TopN& best = scored.tops[d];
    const bool there = i < best.count();
    put(s.top_ids, at * s.num_top + i, there ? best[i].id : -1);
    put(s.top_logprobs, at * s.num_top + i, there ? sums.logprob(best[i].value) : -INFINITY);
  }
}

template <class Mixer>
void write_row(ScoredRow<Mixer>& scored) {
  const eft_score_stats& s = scored.score.stats;
  for (int d = 0; d <= scored.models(); ++d) write_distribution(scored, d);
  put(s.status, scored.row, 0);
  if (!compares(s)) return;
  TopN up(s.num_changed, 0.0f), down(s.num_changed, 0.0f);
  scored.compare(up, down);
  put(s.tv, scored.row, scored.tv);
  put(s.kl, scored.row, scored.kl);
  write_changed(up, s.num_changed, scored.row, s.up_ids, s.up_log_ratios);
  write_changed(down, s.num_changed, scored.row, s.down_ids, s.down_log_ratios);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SCORE_WRITE_H_
