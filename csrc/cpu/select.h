// Filters. Each keeps a prefix of the rank (t descending, then id ascending), so a filter is one
// (t, id) limit.
#ifndef EFT_CPU_SELECT_H_
#define EFT_CPU_SELECT_H_

#include "cpu/close.h"

namespace eft {
namespace {

constexpr uint32_t kLastId = 0xffffffffu;

// A token is kept iff t > limit.t, or t == limit.t and its id <= limit.id; -inf is never kept.
struct Limit {
  float t = -0x1.fffffep127f;
  uint32_t id = kLastId;

  // Of n tokens from id `first` on, the last place that is kept on a tie; -1 if none is.
  int ids_within(int64_t first, int n) const {
    const int64_t places = int64_t(id) - first;
    return int(places < -1 ? -1 : places > n ? n : places);
  }
};

inline bool keeps(const Limit& limit, float t, uint32_t id) {
  return (t > limit.t) | ((t == limit.t) & (id <= limit.id));
}

inline Limit stricter(const Limit& a, const Limit& b) {
  if (a.t != b.t) return a.t > b.t ? a : b;
  return a.id < b.id ? a : b;
}

// W_T of a tile, over the tokens within the limit.
inline uint64_t kept_tile_mass(const Row& row, int64_t tile, const Limit& limit) {
  const int64_t first = tile * kTile;
  const int n = tile_length(row.n, first);
  const float a = row.tile_reference[tile];
  if (!(a > -INFINITY && a >= row.reference - 51.0f && row.tile_max[tile] >= limit.t)) return 0;
  const int last = limit.ids_within(first, n);
  // Only the tile of the limit itself parts a tie.
  if (last < 0) return mass_above(row.t + first, n, a, limit.t);
  if (last >= n - 1) return mass_above(row.t + first, n, a, next_below(limit.t));
  return mass_within(row.t + first, n, a, limit.t, last);
}

inline void drop_outside(const Limit& limit, Picked& list) {
  int64_t count = 0;
#ifdef EFT_LANES_AVX512
  const __m512 cut = _mm512_set1_ps(limit.t);
  const __m512i last = _mm512_set1_epi32(int(limit.id));
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
    count += keeps(limit, t, id);
  }
#endif
  end_list(list, count);
}

// The place of the nth of n values that equals x; n if there is none.
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

// The survivors of a row's filters: the limit, and the tokens themselves where they were picked
// (all of the row up to the limit where they were not).
struct Survivors {
  Limit limit;
  Picked tokens;
  bool listed = false;
  bool masses_known = false;  // row.tile_mass already holds the survivors' masses

  void shrink(const Limit& next) {
    limit = stricter(limit, next);
    masses_known = false;
    if (!listed) return;
    drop_outside(limit, tokens);
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SELECT_H_
