// The result of filtering a row. Each filter keeps a prefix of the rank (t descending, then id
// ascending; numerics.md §4), so the survivors are those within one (t, id) cutoff.
#ifndef EFT_CPU_SURVIVORS_H_
#define EFT_CPU_SURVIVORS_H_

#include "cpu/cutoff_search.h"

namespace eft {
namespace {

constexpr uint32_t kAllTies = 0xffffffffu;  // a cutoff's id that keeps all tokens with its t

// A token is kept iff t > cutoff.t, or t == cutoff.t and its id <= cutoff.id; -inf is never kept.
struct Cutoff {
  float t = -0x1.fffffep127f;
  uint32_t id = kAllTies;

  // The last of n tokens from id `first` on that is kept on a tie, as an offset from `first`; -1
  // if none.
  int last_kept_tie(int64_t first, int n) const {
    const int64_t offset = int64_t(id) - first;
    return int(offset < -1 ? -1 : offset > n ? n : offset);
  }
};

inline bool keeps(const Cutoff& cutoff, float t, uint32_t id) {
  return (t > cutoff.t) | ((t == cutoff.t) & (id <= cutoff.id));
}

inline Cutoff stricter(const Cutoff& a, const Cutoff& b) {
  if (a.t != b.t) return a.t > b.t ? a : b;
  return a.id < b.id ? a : b;
}

// W_T of a tile, over the tokens within the cutoff.
inline uint64_t kept_tile_mass(const Row& row, int64_t tile, const Cutoff& cutoff) {
  const int64_t first = tile * kTile;
  const int n = tile_length(row.n, first);
  const float a = row.tile_reference[tile];
  if (!(a > -INFINITY && a >= row.reference - 51.0f && row.tile_max[tile] >= cutoff.t)) return 0;
  const int last = cutoff.last_kept_tie(first, n);
  // Only in the cutoff's own tile are some ties kept and others not.
  if (last < 0) return mass_above(row.t + first, n, a, cutoff.t);
  if (last >= n - 1) return mass_above(row.t + first, n, a, next_below(cutoff.t));
  return mass_within(row.t + first, n, a, cutoff.t, last);
}

inline void drop_outside(const Cutoff& cutoff, TokenList& list) {
  int64_t count = 0;
#ifdef EFT_SIMD_AVX512
  const __m512 cut = _mm512_set1_ps(cutoff.t);
  const __m512i last = _mm512_set1_epi32(int(cutoff.id));
  for (int64_t i = 0; i < list.count; i += 16) {  // what follows the list is -inf
    const __m512 t = _mm512_loadu_ps(list.t + i);
    const __m512i id = _mm512_loadu_si512(list.id + i);
    const __mmask16 tied = _mm512_cmp_ps_mask(t, cut, _CMP_EQ_OQ);
    const __mmask16 in = __mmask16(_mm512_cmp_ps_mask(t, cut, _CMP_GT_OQ) |
                                   _mm512_mask_cmple_epu32_mask(tied, id, last));
    _mm512_storeu_ps(list.t + count, _mm512_maskz_compress_ps(in, t));
    _mm512_storeu_si512(list.id + count, _mm512_maskz_compress_epi32(in, id));
    count += __builtin_popcount(in);
  }
#else
  for (int64_t i = 0; i < list.count; ++i) {
    const float t = list.t[i];
    const uint32_t id = list.id[i];
    list.t[count] = t;
    list.id[count] = id;
    count += keeps(cutoff, t, id);
  }
#endif
  end_list(list, count);
}

// The index of the nth of n values that equals x; n if there is none.
inline int64_t nth_equal(const float* t, int64_t n, float x, uint64_t nth) {
  for (int64_t first = 0; first < n; first += kChunk) {
    const int length = int(std::min<int64_t>(kChunk, n - first));
    int32_t count = 0;
#pragma omp simd reduction(+ : count)
    for (int i = 0; i < length; ++i) count += t[first + i] == x;
    if (uint64_t(count) < nth) {
      nth -= uint64_t(count);
      continue;
    }
    for (int i = 0;; ++i) {
      if (t[first + i] == x && --nth == 0) return first + i;
    }
  }
  return n;
}

// The survivors of a row's filters: the cutoff, and the list of them where one was made.
struct Survivors {
  Cutoff cutoff;
  TokenList tokens;
  bool listed = false;
  bool masses_known = false;  // row.tile_mass already holds the survivors' masses

  void apply(const Cutoff& next) {
    cutoff = stricter(cutoff, next);
    masses_known = false;
    if (!listed) return;
    drop_outside(cutoff, tokens);
  }
};

// Rewrites row.tile_mass with the survivors' masses, formed as W_T are.
inline void survivor_masses(const Survivors& s, Row& row) {
  if (s.masses_known) return;
  if (s.listed) {
    std::fill(row.tile_mass, row.tile_mass + num_tiles(row), uint64_t(0));
    add_by_tile(s.tokens, row);
    return;
  }
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    row.tile_mass[tile] = kept_tile_mass(row, tile, s.cutoff);
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SURVIVORS_H_
