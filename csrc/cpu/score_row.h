// One row's statistics (numerics.md §9). The row is read tile by tile, all K + 1 distributions
// of a tile while it is in L1. What compares two distributions needs their normalisers first, and
// reads the row again, from L2.
#ifndef EFT_CPU_SCORE_ROW_H_
#define EFT_CPU_SCORE_ROW_H_

#include "common/score.h"
#include "cpu/conservative.h"
#include "cpu/score_sums.h"
#include "cpu/score_top_n.h"

namespace eft {
namespace {

template <class Mixer>
struct ScoredRow {
  const eft_score& score;
  int64_t row;
  const Mixer& mixture;
  float (*tiles)[kTile];  // [K + 1][1024], the distributions' logits of the tile at hand
  Sums sums[kMaxDistributions] = {};
  float at_target[kMaxDistributions] = {};
  std::vector<TopN> tops = {};  // K + 1 where top_ids are asked for
  double tv = 0, kl = 0;

  const eft_step& step() const { return score.mixture; }
  int models() const { return step().num_models; }
  int64_t vocab_size() const { return step().vocab_size; }
  int length(int64_t first) const { return tile_length(vocab_size(), first); }

  // Fills a tile of one distribution, padded with -inf. False where the mixture has NaN or +inf.
  bool fill(int distribution, int64_t first, int n) {
    float* x = tiles[distribution];
    if (distribution < models()) {
      own_tile(step().logits[distribution], row, first, n, x);
      return true;
    }
    std::fill(x + n, x + padded_tile(n), -INFINITY);
    float group_max[kTile / kLanes];
    return mixture(first, n, 1.0f, x, group_max).finite;  // scaled by 1, t is z
  }

  // The first read. False for an invalid row.
  bool read(int64_t target) {
    const int64_t own = target / kTile * kTile;
    for (int d = 0; d <= models(); ++d) {
      if (!fill(d, own, length(own))) return false;
      at_target[d] = tiles[d][target - own];
      if (score.stats.num_top) tops.emplace_back(score.stats.num_top, -INFINITY);
    }
    for (int64_t first = 0; first < vocab_size(); first += kTile) {
      const int n = length(first), padded = padded_tile(n);
      const int64_t offset = target - first;
      const int ties = offset <= 0 ? 0 : offset < n ? int(offset) : n;
      for (int d = 0; d <= models(); ++d) {
        if (!fill(d, first, n)) return false;
        const float top = sums[d].add(tiles[d], padded, first);
        if (score.stats.rank) sums[d].before += count_before(tiles[d], n, at_target[d], ties);
        if (!tops.empty() && tops[d].wants(top)) {
          tops[d].offer(tiles[d], n, first, [](int) { return 0.0f; });
        }
      }
    }
    return sums[models()].max > -INFINITY;
  }

  // The lowest id of the largest logit.
  int64_t argmax(int d) {
    const int64_t first = sums[d].first;
    const int n = length(first);
    fill(d, first, n);
    const float max = float(sums[d].max);
    return first + (std::find(tiles[d], tiles[d] + n, max) - tiles[d]);
  }

  // log sum exp(x - max) over all but the first largest. Where that token is almost certain, the
  // others may be lost to underflow: then the row is read once more without it.
  double log_others(int d, int64_t largest) {
    if (sums[d].others > kAlmostCertain) return ::log(sums[d].others);
    Sums rest;
    for (int64_t first = 0; first < vocab_size(); first += kTile) {
      const int n = length(first);
      fill(d, first, n);
      if (largest >= first && largest < first + n) tiles[d][largest - first] = -INFINITY;
      rest.add(tiles[d], padded_tile(n), first);
    }
    const double log = rest.max == -INFINITY ? -INFINITY : rest.lse() - sums[d].max;
    sums[d].others = ::exp(log);
    return log;
  }

  // The second read: total variation, KL, and the tokens that gain and lose most. KL is summed as
  // p log(p/q) - p + q: each term is non-negative, and errors of the normalisers cancel to first
  // order.
  void compare(TopN& up, TopN& down) {
    const int p = models(), q = score.compared;
    const float scale_p = float(sums[p].max_prob()), scale_q = float(sums[q].max_prob());
    const double log_scales = ::log(double(scale_p)) - ::log(double(scale_q));
    const ComparedPair pair = {float(sums[p].max), float(sums[q].max), scale_p, scale_q,
                               float(log_scales)};
    alignas(64) float change[2][kTile];
    for (int64_t first = 0; first < vocab_size(); first += kTile) {
      const int n = length(first), padded = padded_tile(n);
      fill(p, first, n);
      fill(q, first, n);
      const float *zp = tiles[p], *zq = tiles[q];
      float *gain = change[0], *loss = change[1];
      const TileDistance distance = compare_tile(zp, zq, padded, pair, gain, loss);
      tv += distance.absolute;
      kl += distance.divergence;
      if (score.stats.num_changed == 0) continue;
      const auto log_ratio = [&](int i) {
        return float(sums[p].logprob(zp[i]) - sums[q].logprob(zq[i]));
      };
      if (up.wants(tile_max(gain, padded))) up.offer(gain, n, first, log_ratio);
      if (down.wants(tile_max(loss, padded))) down.offer(loss, n, first, log_ratio);
    }
    tv = std::min(1.0, 0.5 * tv);
    kl = std::max(0.0, kl + (log_scales - double(pair.log_scales)));
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SCORE_ROW_H_
