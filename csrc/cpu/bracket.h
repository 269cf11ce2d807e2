// Where a filter's limit lies among thousands of tokens, without ranking them: a sample says about
// where, cuts around that place are counted or weighed exactly in one pass, and only the tokens
// between two cuts are gathered.
#ifndef EFT_CPU_BRACKET_H_
#define EFT_CPU_BRACKET_H_

#include <math.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "cpu/select.h"

namespace eft {
namespace {

constexpr int kSampled = 1024;
constexpr int64_t kMostBetween = 1 << 14;

inline bool is_wide(const Row& row) { return row.n >= 4 * kMostBetween; }

constexpr int64_t kManyGroups = 512;

inline int64_t num_groups_from(const Row& row, float at_least) {
  int32_t count = 0;
  const int32_t groups = int32_t(padded(row.n) / kLanes);
#pragma omp simd reduction(+ : count)
  for (int32_t g = 0; g < groups; ++g) count += row.group_max[g] >= at_least;
  return count;
}

// Tokens with low < t <= high, of which the limit is known to be one.
struct Bracket {
  float low = -INFINITY;
  float high = INFINITY;
};

// The t at which the bracket's sampled share (of its mass, or of its tokens) reaches p - 3.5, p -
// 1, p + 1 and p + 3.5 standard errors. False where the sample is too small.
template <bool kByMass>
inline bool sample_cuts(const Row& row, const Bracket& within, double p, Candidate* sample,
                        float* cuts) {
  const int64_t stride = row.n / kSampled;
  int count = 0;
  double total = 0, squares = 0;
  for (int64_t i = 0; i < kSampled; ++i) {
    // Scattered within its stride, so that rows with a period are sampled as well as others.
    const int64_t id = i * stride + int64_t(uint32_t(i) * 2654435761u >> 8) % stride;
    const float t = row.t[id];
    if (!(t > within.low && t <= within.high)) continue;
    const uint64_t weight = kByMass ? token_mass(t, row.reference) : 1;
    if (weight == 0) continue;
    sample[count++] = {rank_key(t, uint32_t(id)), weight};
    total += double(weight);
    squares += double(weight) * double(weight);
  }
  if (count < 16) return false;
  std::sort(sample, sample + count, ByRank());
  const double error = ::sqrt(p * (1.0 - p) * squares) / total;  // of a weighted sample
  const double place[kCuts] = {p - 3.5 * error, p - error, p + error, p + 3.5 * error};
  double above = 0;
  int cut = 0;
  for (int i = 0; i < count && cut < kCuts; ++i) {
    above += double(sample[i].mass);
    while (cut < kCuts && above >= place[cut] * total) cuts[cut++] = key_t(sample[i].key);
  }
  while (cut < kCuts) cuts[cut++] = key_t(sample[count - 1].key);
  return true;
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

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_BRACKET_H_
