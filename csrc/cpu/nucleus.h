// top_p where the nucleus is wide: thousands of candidates, as in flat rows. Gathering and
// partitioning them all takes twenty times as long as reading the row, so the boundary is bracketed
// first: a sample says where it should be, one pass over the row sums the mass above four cuts
// around that place, and only the tokens between the two cuts that hold the boundary are ranked.
// Every sum is exact; a sample that misleads costs time, never a token.
#ifndef EFT_CPU_NUCLEUS_H_
#define EFT_CPU_NUCLEUS_H_

#include <math.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "cpu/select.h"

namespace eft {
namespace {

constexpr int kSampled = 1024;

// The t at which the sample's share of mass reaches p - 3.5, p - 1, p + 1 and p + 3.5 standard
// errors.
inline bool sample_cuts(const Row& row, double p, Candidate* sample, float* cuts) {
  const int64_t stride = row.n / kSampled;
  int count = 0;
  uint64_t total = 0;
  for (int64_t i = 0; i < kSampled; ++i) {
    // Scattered within its stride, so that rows with a period are sampled as well as others.
    const int64_t id = i * stride + int64_t(uint32_t(i) * 2654435761u >> 8) % stride;
    const uint64_t mass = token_mass(row.t[id], row.reference);
    if (mass == 0) continue;
    sample[count++] = {rank_key(row.t[id], uint32_t(id)), mass};
    total += mass;
  }
  if (count < kSampled / 8) return false;  // a narrow nucleus after all
  std::sort(sample, sample + count, ByRank());
  const double error = ::sqrt(p * (1.0 - p) / count);
  const double place[kCuts] = {p - 3.5 * error, p - error, p + error, p + 3.5 * error};
  uint64_t above = 0;
  int cut = 0;
  for (int i = 0; i < count && cut < kCuts; ++i) {
    above += sample[i].mass;
    while (cut < kCuts && double(above) >= place[cut] * double(total)) {
      cuts[cut++] = key_t(sample[i].key);
    }
  }
  while (cut < kCuts) cuts[cut++] = key_t(sample[count - 1].key);
  return true;
}

// above[tile][j] = mass, at the row's reference, of the tile's tokens with t > cuts[j].
template <bool kNear>
inline void masses_above(const Row& row, const float* cuts, uint64_t (*above)[kCuts]) {
  int32_t high[kChunk], low[kChunk];
  for (int64_t first = 0; first < padded(row.n); first += kChunk) {
    uint64_t* sums = above[first / kTile];
    if (first % kTile == 0) std::fill(sums, sums + kCuts, uint64_t(0));
    const float* t = row.t + first;
    split_masses<kNear>(t, row.reference, high, low);
    for (int j = 0; j < kCuts; ++j) {
      uint32_t sum_high = 0, sum_low = 0;
      const float cut = cuts[j];
#pragma omp simd reduction(+ : sum_high, sum_low)
      for (int i = 0; i < kChunk; ++i) {
        const uint32_t mask = 0u - uint32_t(t[i] > cut);
        sum_high += uint32_t(high[i]) & mask;
        sum_low += uint32_t(low[i]) & mask;
      }
      sums[j] += (uint64_t(sum_high) << 17) + sum_low;
    }
  }
}

// The ids of a chunk's tokens with low < t <= high, appended at `out`; how many. One token in
// thirty is such a one, too many to skip the rest and too few to branch on each.
inline int append_between(const float* t, float low, float high, uint32_t first, uint32_t* out) {
  int count = 0;
#ifdef __AVX512F__
  __m512i ids =
      _mm512_add_epi32(_mm512_set1_epi32(int(first)),
                       _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  for (int i = 0; i < kChunk; i += 16, ids = _mm512_add_epi32(ids, _mm512_set1_epi32(16))) {
    const __m512 x = _mm512_loadu_ps(t + i);
    const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(low), _CMP_GT_OQ);
    const __mmask16 in = _mm512_mask_cmp_ps_mask(above, x, _mm512_set1_ps(high), _CMP_LE_OQ);
    _mm512_storeu_si512(out + count, _mm512_maskz_compress_epi32(in, ids));
    count += __builtin_popcount(in);
  }
#else
  for (int i = 0; i < kChunk; ++i) {
    out[count] = first + uint32_t(i);
    count += int(t[i] > low) & int(t[i] <= high);
  }
#endif
  return count;
}

// The tokens with low < t <= high; -1 if there are more than `limit`.
inline int64_t gather_between(const Row& row, float low, float high, int64_t limit,
                              Candidate* out) {
  uint32_t ids[kChunk + 16];  // a vector is stored whole
  int64_t count = 0;
  for (int64_t first = 0; first < padded(row.n); first += kChunk) {
    const int found = append_between(row.t + first, low, high, uint32_t(first), ids);
    if (count + found > limit) return -1;
    for (int i = 0; i < found; ++i) {
      const float t = row.t[ids[i]];
      out[count++] = {rank_key(t, ids[i]), token_mass(t, row.reference)};
    }
  }
  return count;
}

// Of the tokens that tie at t, each of the same mass, the ids are kept in order until `target` is
// reached.
inline Limit tie_limit(const Row& row, float t, uint64_t target) {
  uint64_t left = (target + token_mass(t, row.reference) - 1) / token_mass(t, row.reference);
  for (int64_t i = 0;; ++i) {
    if (row.t[i] == t && --left == 0) return {t, uint32_t(i)};
  }
}

// The survivors' tile masses: what lies above the cut is summed already, in all tiles whose
// reference is the row's; the tokens between the cuts are at hand.
inline void nucleus_masses(const uint64_t (*above)[kCuts], int cut, const Candidate* between,
                           int64_t count, const Limit& limit, Row& row) {
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    const bool summed = row.tile_reference[tile] == row.reference;
    row.tile_mass[tile] = !summed   ? kept_tile_mass(row, tile, limit)
                          : cut < 0 ? 0
                                    : above[tile][cut];
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t tile = key_id(between[i].key) / kTile;
    if (row.tile_reference[tile] != row.reference) continue;
    const bool kept = keeps(limit, key_t(between[i].key), key_id(between[i].key));
    row.tile_mass[tile] += kept ? between[i].mass : 0;
  }
}

// Keeps the nucleus of `target` within all of the row; false where this way does not lead there.
inline bool keep_wide_nucleus(Row& row, uint64_t target, uint64_t mass, uint64_t (*above)[kCuts],
                              Survivors& s) {
  constexpr int64_t kMost = 1 << 14;
  float cuts[kCuts];
  if (row.n < 4 * kMost) return false;
  if (!sample_cuts(row, double(target) / double(mass), s.tokens, cuts)) return false;
  if (is_near(row.reference)) {
    masses_above<true>(row, cuts, above);
  } else {
    masses_above<false>(row, cuts, above);
  }
  uint64_t total[kCuts] = {};
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    for (int j = 0; j < kCuts; ++j) total[j] += above[tile][j];
  }
  int j = 0;  // the boundary lies at or below cuts[j - 1] and above cuts[j]
  while (j < kCuts && total[j] < target) ++j;
  const float high = j > 0 ? cuts[j - 1] : INFINITY;
  const float low = j < kCuts ? cuts[j] : -INFINITY;
  const uint64_t before = j > 0 ? total[j - 1] : 0;
  const int64_t count = gather_between(row, low, high, kMost, s.tokens);
  if (count >= 0) {
    if (before + mass_of(s.tokens, count) < target) return false;  // all the row is kept
    s.shrink(nucleus_limit(s.tokens, count, target - before));
    nucleus_masses(above, j - 1, s.tokens, count, s.limit, row);
    s.masses_known = true;
    return true;
  }
  if (j == 0) return false;
  uint64_t ties = 0;
  for (int64_t i = 0; i < row.n; ++i) ties += row.t[i] == high;
  if (before + ties * token_mass(high, row.reference) < target) return false;
  s.shrink(tie_limit(row, high, target - before));
  return true;
}

constexpr float kUsualDepth =
    6.0f;  // powers of two below the maximum that usually hold the nucleus
constexpr int64_t kManyGroups = 512;

inline int64_t num_groups_from(const Row& row, float at_least) {
  int32_t count = 0;
  const int32_t groups = int32_t(padded(row.n) / kLanes);
#pragma omp simd reduction(+ : count)
  for (int32_t g = 0; g < groups; ++g) count += row.group_max[g] >= at_least;
  return count;
}

// top_p over the survivors, whose masses row.tile_mass holds. `above` is scratch, one entry a tile.
inline void keep_top_p(Row& row, uint64_t p_fix, uint64_t (*above)[kCuts], Survivors& s) {
  const uint64_t mass = total_mass(row);
  const uint64_t target = mass_target(p_fix, mass);
  if (s.listed()) {
    if (mass_of(s.tokens, s.count) >= target) s.shrink(nucleus_limit(s.tokens, s.count, target));
    return;
  }
  if (num_groups_from(row, row.max_t - kUsualDepth) > kManyGroups &&
      keep_wide_nucleus(row, target, mass, above, s)) {
    return;
  }
  // The nucleus usually lies a few powers of two below the maximum: widen until its mass is there.
  for (float depth : {kUsualDepth, 12.0f, 24.0f, 48.0f}) {
    const int64_t count = gather(row, row.max_t - depth, s.tokens);
    if (mass_of(s.tokens, count) < target) continue;
    s.count = count;
    s.shrink(nucleus_limit(s.tokens, count, target));
    return;
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_NUCLEUS_H_
