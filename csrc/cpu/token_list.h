// Lists of a row's tokens (TokenList of scratch.h), and how much of a list lies above a cut.
#ifndef EFT_CPU_TOKEN_LIST_H_
#define EFT_CPU_TOKEN_LIST_H_

#include <algorithm>

#include "cpu/row.h"

namespace eft {
namespace {

// Ends the list with padding, so that whole steps of it can be read.
inline void end_list(TokenList& list, int64_t count) {
  list.count = count;
  std::fill(list.t + count, list.t + count + kListPadding, -INFINITY);
}

// Gives each token its share of the mass at `reference`.
inline void weigh(TokenList& list, float reference) {
  list.reference = reference;
  const float* t = list.t;
  float* share = list.share;
#ifdef EFT_SIMD
  if (is_exact_reference(reference)) {
    for_each_share<false>(t, int(list.count), reference,
                          [&](int i, Lanes w) { store(share + i, w); });
    return;
  }
  constexpr float unit = LaneMasses::kUnit == 40 ? 0x1p17f : 1.0f;
#else
  constexpr float unit = 1.0f;
#endif
#pragma omp simd
  for (int64_t i = 0; i < list.count + 16; ++i) {  // whole steps are read
    share[i] = share_of(t[i], reference) * unit;
  }
}

// Adds the listed tokens' masses to their tiles', at the tiles' references.
inline void add_by_tile(const TokenList& list, Row& row) {
  const uint32_t* const end = list.id + list.count;
  for (const uint32_t* id = list.id; id < end;) {
    const int64_t tile = *id / kTile;
    const uint32_t* next = id + 1;  // most tiles have few listed tokens
    while (next < end && *next / kTile == tile) ++next;
    const float* t = list.t + (id - list.id);
    const int n = int(next - id);
    const float a = row.tile_reference[tile];
    if (a < row.reference - 51.0f) {
      // shifted out
    } else if (n < 8) {
      for (int i = 0; i < n; ++i) row.tile_mass[tile] += token_mass(t[i], a);
    } else {
      row.tile_mass[tile] += mass_within<false>(t, n, a, -INFINITY, -1);
    }
    id = next;
  }
}

// The number of groups whose largest token is at least this.
inline int64_t num_groups_from(const Row& row, float at_least) {
  int32_t count = 0;
  const int32_t groups = int32_t(padded(row.n) / kLanes);
#pragma omp simd reduction(+ : count)
  for (int32_t g = 0; g < groups; ++g) count += row.group_max[g] >= at_least;
  return count;
}

inline __attribute__((always_inline)) bool any_above(const float* group_max, float low) {
#ifdef EFT_SIMD
  return count(above(load(group_max), splat(low))) != 0;
#else
  int any = 0;
#pragma omp simd reduction(| : any)
  for (int g = 0; g < kLanes; ++g) any |= group_max[g] > low;
  return any;
#endif
}

// Appends a chunk's tokens with low < t <= high and returns their number.
inline int append_between(const float* t, uint32_t first, float low, float high, float* to_t,
                          uint32_t* to_id) {
  int count = 0;
#ifdef EFT_SIMD_AVX512
  const __m512 from = _mm512_set1_ps(low), to = _mm512_set1_ps(high);
  __m512i ids =
      _mm512_add_epi32(_mm512_set1_epi32(int(first)),
                       _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  for (int i = 0; i < kChunk; i += 16, ids = _mm512_add_epi32(ids, _mm512_set1_epi32(16))) {
    const __m512 x = _mm512_loadu_ps(t + i);
    const __mmask16 over = _mm512_cmp_ps_mask(x, from, _CMP_GT_OQ);
    const __mmask16 in = _mm512_mask_cmp_ps_mask(over, x, to, _CMP_LE_OQ);
    // Compressed in a register: the form that writes to memory is microcode on some processors.
    _mm512_storeu_ps(to_t + count, _mm512_maskz_compress_ps(in, x));
    _mm512_storeu_si512(to_id + count, _mm512_maskz_compress_epi32(in, ids));
    count += __builtin_popcount(in);
  }
#else
  for (int i = 0; i < kChunk; ++i) {
    to_t[count] = t[i];
    to_id[count] = first + uint32_t(i);
    count += (t[i] > low) & (t[i] <= high);
  }
#endif
  return count;
}

// Lists all tokens with low < t <= high, by ascending id.
inline void list_between(const Row& row, float low, float high, TokenList& out) {
  int64_t count = 0;
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    if (!(row.tile_max[tile] > low)) continue;
    const int64_t end = std::min(padded(row.n), (tile + 1) * kTile);
    for (int64_t first = tile * kTile; first < end; first += kChunk) {
      if (!any_above(row.group_max + first / kLanes, low)) continue;
      count +=
          append_between(row.t + first, uint32_t(first), low, high, out.t + count, out.id + count);
    }
  }
  end_list(out, count);
}

// ---- above a cut ----

struct AboveCut {
  uint64_t tokens, measure;
};

inline uint64_t count_above(const float* t, int64_t n, float cut) {
  uint64_t total = 0;
  for (int64_t first = 0; first < n; first += kTile) {
    int32_t count = 0;
    const int length = tile_length(n, first);
#pragma omp simd reduction(+ : count)
    for (int i = 0; i < length; ++i) count += t[first + i] > cut;
    total += uint64_t(count);
  }
  return total;
}

inline AboveCut count_listed_above(const TokenList& list, float cut) {
  const uint64_t count = count_above(list.t, list.count, cut);
  return {count, count};
}

// The measure is mass, of a list that was weighed.
inline AboveCut weigh_listed_above(const TokenList& list, float cut) {
  AboveCut total{};
  for (int64_t first = 0; first < list.count; first += kTile) {
    const float* t = list.t + first;
    const float* share = list.share + first;
    const int n = tile_length(list.count, first);
#ifdef EFT_SIMD
    LaneSum sum;
    int tokens = 0;
    const Lanes threshold = splat(cut);
    for (int i = 0; i < n; i += 16) {
      const LaneMask over = above(load(t + i), threshold);
      sum.add(LaneMasses(load(share + i)), over);
      tokens += count(over);
    }
    total.tokens += uint64_t(tokens);
    total.measure += sum.total();
#else
    for (int start = 0; start < n; start += kChunk) {
      uint32_t high = 0, low = 0;
      const int end = std::min(n, start + kChunk);
#pragma omp simd reduction(+ : high, low)
      for (int i = start; i < end; ++i) {
        const SplitMass mass(share[i]);
        const uint32_t mask = 0u - uint32_t(t[i] > cut);
        high += uint32_t(mass.high) & mask;
        low += uint32_t(mass.low) & mask;
      }
      total.measure += (uint64_t(high) << 17) + low;
    }
    total.tokens += count_above(t, n, cut);
#endif
  }
  return total;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_TOKEN_LIST_H_
