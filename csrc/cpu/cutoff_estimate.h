// An estimate of a filter's cutoff from a sample of the row: about where the tokens above it,
// counted (top_k) or weighed by mass (top_p), reach a goal.
#ifndef EFT_CPU_CUTOFF_ESTIMATE_H_
#define EFT_CPU_CUTOFF_ESTIMATE_H_

#include <math.h>

#include "cpu/survivors.h"

namespace eft {
namespace {

constexpr int kSampled = 1024;
// Longest list of tokens that is worth making, and the most groups (of 16 tokens) to make one from.
constexpr int64_t kMaxListed = 1 << 12;
constexpr int64_t kMaxListedGroups = 512;
constexpr int64_t kMaxListedGroupsWide = 192;  // listing these costs less than a sample

// Long enough to be sampled.
inline bool is_wide(const Row& row) { return row.n >= 8 * kSampled; }

struct Estimate {
  float low, high;    // the goal is reached between them, within three standard errors
  int64_t num_above;  // estimated number of tokens above `low`
};

class Sample {
 public:
  // Tokens weigh their share of the mass at the row's reference, or 1 each.
  Sample(const Row& row, bool by_mass) : by_mass_(by_mass), scale_(float(row.n) / kSampled) {
    const int64_t stride = row.n / kSampled;
    for (int i = 0; i < kSampled; ++i) {
      // Scattered within its stride, so that rows with a period are sampled as well as others.
      const uint32_t hash = uint32_t(i) * 2654435761u;
      const float t = row.t[i * stride + int64_t(uint64_t(hash) * uint64_t(stride) >> 32)];
      t_[i] = t > -0x1.fffffep127f ? t : -0x1.fffffep127f;
    }
#pragma omp simd
    for (int i = 0; i < kSampled; ++i) {
      const float d = t_[i] - row.reference;
      weight_[i] = by_mass ? share(d > -100.0f ? d : -100.0f) : 1.0f;
    }
  }

  // Estimates the cutoff above which `goal` of `total` lies. It is read from what lies below: no
  // weight there is larger than the cutoff's own, while a sample may miss the one token that has
  // most of the mass.
  Estimate estimate_cutoff(float goal, float total) const {
    const float below = total - goal;
    const float error = 3.0f * error_at(cut_bounds(below).high);
    const float low = cut_bounds(below - error).low;
    return {low, cut_bounds(below + error).high, int64_t(float(count_over(low)) * scale_)};
  }

 private:
  static float share(float d) {
    const float n = floorf(d);
    return exp2_fraction(d - n) * bit_cast<float>((127 + int32_t(n)) << 23);
  }

  float below(float cut) const {
#ifdef EFT_SIMD
    constexpr int kSums = 4;  // interleaved: a single sum waits for each addition
    Lanes sums[kSums] = {splat(0), splat(0), splat(0), splat(0)};
    const Lanes threshold = splat(cut);
    for (int i = 0; i < kSampled; i += 16 * kSums) {
      for (int u = 0; u < kSums; ++u) {
        const int at = i + 16 * u;
        const LaneMask under = and_not(first_lanes(16), above(load(t_ + at), threshold));
        sums[u] = add_where(sums[u], load(weight_ + at), under);
      }
    }
    return sum_of(add(add(sums[0], sums[1]), add(sums[2], sums[3]))) * scale_;
#else
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < kSampled; ++i) {
      const uint32_t mask = 0u - uint32_t(t_[i] <= cut);
      sum += bit_cast<float>(bit_cast<uint32_t>(weight_[i]) & mask);
    }
    return sum * scale_;
#endif
  }

  // Two cuts, within 1/4096 of each other, between which the measure below them passes the goal.
  // Finding nearer ones would cost more than the tokens between them.
  struct CutBounds {
    float low, high;
  };
  CutBounds cut_bounds(float goal) const {
    int64_t low = order_of(-INFINITY), high = order_of(INFINITY);
    while (high - low > 1 << 11) {
      const int64_t middle = (low + high) >> 1;
      (below(from_order(int32_t(middle))) > goal ? high : low) = middle;
    }
    return {from_order(int32_t(low)), from_order(int32_t(high))};
  }

  // Standard error of the measure below the cut; when tokens are counted, of the one above where
  // that is smaller.
  float error_at(float cut) const {
    float above = 0, below = 0;
#pragma omp simd reduction(+ : above, below)
    for (int i = 0; i < kSampled; ++i) {
      const uint32_t mask = 0u - uint32_t(t_[i] > cut);
      const uint32_t square = bit_cast<uint32_t>(weight_[i] * weight_[i]);
      above += bit_cast<float>(square & mask);
      below += bit_cast<float>(square & ~mask);
    }
    return sqrtf(by_mass_ || below < above ? below : above) * scale_;
  }

  int count_over(float cut) const {
    int count = 0;
#pragma omp simd reduction(+ : count)
    for (int i = 0; i < kSampled; ++i) count += t_[i] > cut;
    return count;
  }

  bool by_mass_;
  float scale_;
  float t_[kSampled], weight_[kSampled];
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_CUTOFF_ESTIMATE_H_
