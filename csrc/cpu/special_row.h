// Completes what was read of a row with special tokens: delta, then its own tokens.
#ifndef EFT_CPU_SPECIAL_ROW_H_
#define EFT_CPU_SPECIAL_ROW_H_

#include "cpu/special_tokens.h"

namespace eft {
namespace {

// The largest y of those of a tile's tokens that have the row's largest t, which is finite.
template <class Inner>
float largest_at(const SpecialMixture<Inner>& mixture, const Row& row, int64_t first, float max_t) {
  constexpr int kFew = 32;
  const int n = tile_length(row.n, first);
  const float* const t = row.t + first;
  float y[kFew], best = -INFINITY;
  for (int chunk = 0; chunk < n; chunk += kChunk) {
    const float* const group_max = row.group_max + (first + chunk) / kLanes;
    if (std::find(group_max, group_max + kLanes, max_t) == group_max + kLanes) continue;
    for (int start = chunk; start < std::min(n, chunk + kChunk); start += kFew) {
      const int count = std::min(kFew, n - start);
      if (std::find(t + start, t + start + count, max_t) == t + start + count) continue;
      mixture.inner(first + start, count, 1.0f, y, nullptr);
      for (int i = 0; i < count; ++i) best = t[start + i] == max_t ? std::max(best, y[i]) : best;
    }
  }
  return best;
}

// Adds a tile's own tokens to its t and summary.
template <class Inner>
void add_own(const SpecialMixture<Inner>& mixture, float c, bool masses, int64_t tile, Row& row,
             RowSummary& summary) {
  const int64_t first = tile * kTile;
  const int n = tile_length(row.n, first);
  float* const t = row.t + first;
  float max_t = row.tile_max[tile];
  mixture.for_each_own(first, n, [&](int i) {
    t[i] = mixture.own_t(first + i, c);
    summary.finite &= t[i] < INFINITY;
    float& group_max = row.group_max[(first + i / kChunk * kChunk) / kLanes + i % kLanes];
    group_max = std::max(group_max, t[i]);
    max_t = std::max(max_t, t[i]);
  });
  const float a = floorf(max_t);
  const bool moved = a != row.tile_reference[tile];
  row.tile_max[tile] = max_t;
  row.tile_reference[tile] = a;
  summary.max_t = std::max(summary.max_t, max_t);
  summary.reference = std::max(summary.reference, a);
  if (!masses || !summary.finite || !(a > -INFINITY)) return;
  if (moved) {
    row.tile_mass[tile] = mass_of(t, n, a, false);
  } else {
    mixture.for_each_own(first, n, [&](int i) { row.tile_mass[tile] += token_mass(t[i], a); });
  }
}

// The row's largest logit alone is wanted.
template <class Mixer>
void be_lazy(const Mixer&) {}
template <class Inner>
void be_lazy(const SpecialMixture<Inner>& mixture) {
  mixture.lazy = true;
  stop_looking(mixture.inner);
}

// True unless every own token is surely below the row's largest logit. The owner's logit of that
// token is at most its best one, which makes a delta that is at least the true one.
template <class Inner>
bool own_may_be_largest(const SpecialMixture<Inner>& mixture, const Row& row, float max_t) {
  if (!(max_t > -INFINITY)) return true;
  const float* const tile = std::find(row.tile_max, row.tile_max + num_tiles(row), max_t);
  const int64_t first = (tile - row.tile_max) * kTile;
  const int64_t largest = std::find(row.t + first, row.t + row.n, max_t) - row.t;
  const float most = max_t - mixture.tau(largest);
  bool may = false;
  mixture.for_each_special_tile([&](int64_t start) {
    mixture.for_each_own(start, tile_length(row.n, start),
                         [&](int i) { may |= !(mixture.tau(start + i) + most < max_t); });
  });
  return may;
}

// A row that has been read at c.
template <class Inner>
void complete_row(const SpecialMixture<Inner>& mixture, float c, bool masses, Row& row,
                  RowSummary& summary) {
  if (!mixture.has_own || mixture.known) return;
  float best = summary.max_t;
  if (mixture.lazy) {
    if (mixture.bad || !own_may_be_largest(mixture, row, best)) return;
    mixture.find_delta();
  } else if (c != 1.0f) {  // the largest y is where the largest t is
    best = -INFINITY;
    for (int64_t tile = 0; tile < num_tiles(row) && !mixture.bad; ++tile) {
      if (row.tile_max[tile] != summary.max_t) continue;
      const int64_t first = tile * kTile;
      best = std::max(best, summary.max_t > -INFINITY
                                ? largest_at(mixture, row, first, summary.max_t)
                                : mixture.largest(first, tile_length(row.n, first)));
    }
  }
  if (!mixture.known) mixture.set_delta(best);
  mixture.for_each_special_tile(
      [&](int64_t first) { add_own(mixture, c, masses, first / kTile, row, summary); });
}

template <class Inner>
void complete_logits(const SpecialMixture<Inner>& mixture, float* z) {
  if (!mixture.has_own) return;
  const int64_t size = mixture.step().vocab_size;
  float best = -INFINITY, group_max[kTile / kLanes];
  for (int64_t first = 0; first < size; first += kTile) {
    const int n = tile_length(size, first);
    best = std::max(best, n == kTile ? tile_maxima(z + first, n, group_max)
                                     : *std::max_element(z + first, z + first + n));
  }
  mixture.set_delta(best);
  mixture.for_each_special_tile(
      [&](int64_t first) { mixture(first, tile_length(size, first), 1.0f, z + first, group_max); });
}

// Other mixtures are complete as they are read.
template <class Mixer>
void complete_logits(const Mixer&, float*) {}
template <class Mixer>
void find_delta(const Mixer&) {}
template <class Inner>
void find_delta(const SpecialMixture<Inner>& mixture) {
  mixture.find_delta();
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SPECIAL_ROW_H_
