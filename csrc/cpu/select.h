// Filters. Each keeps a prefix of the rank (t descending, then id ascending), so a filter is one
// (t, id) limit.
#ifndef EFT_CPU_SELECT_H_
#define EFT_CPU_SELECT_H_

#include <algorithm>

#include "common/row_options.h"
#include "cpu/row.h"

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
  return t > limit.t || (t == limit.t && id <= limit.id);
}

inline Limit stricter(const Limit& a, const Limit& b) {
  if (a.t != b.t) return a.t > b.t ? a : b;
  return a.id < b.id ? a : b;
}

// Ascending keys are descending t (finite, no -0), then ascending id.
inline uint64_t rank_key(float t, uint32_t id) {
  const uint32_t bits = bit_cast<uint32_t>(t + 0.0f);  // -0 ranks as +0
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t(~ascending) << 32 | id;
}
inline float key_t(uint64_t key) {
  const uint32_t ascending = ~uint32_t(key >> 32);
  return bit_cast<float>(ascending & 0x80000000u ? ascending & 0x7fffffffu : ~ascending);
}
inline uint32_t key_id(uint64_t key) { return uint32_t(key); }
inline Limit key_limit(uint64_t key) { return {key_t(key), key_id(key)}; }

struct ByRank {
  bool operator()(const Candidate& a, const Candidate& b) const { return a.key < b.key; }
};

// All tokens with t >= at_least, with their masses at the row's reference.
inline int64_t gather(const Row& row, float at_least, Candidate* out) {
  int64_t count = 0;
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    if (!(row.tile_max[tile] >= at_least)) continue;
    const int64_t first = tile * kTile;
    const int64_t end = first + padded(tile_length(row.n, first));
    for (int64_t group = first / kLanes; group < end / kLanes; ++group) {
      if (!(row.group_max[group] >= at_least)) continue;
      const int64_t start = group / kLanes * kChunk + group % kLanes;
      for (int64_t i = start; i < start + kChunk; i += kLanes) {
        const float t = row.t[i];
        if (t >= at_least) out[count++] = {rank_key(t, uint32_t(i)), token_mass(t, row.reference)};
      }
    }
  }
  return count;
}

inline uint64_t mass_of(const Candidate* c, int64_t n) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += c[i].mass;
  return sum;
}

inline uint64_t kept_mass(const float* t, int64_t first, int n, float a, const Limit& limit) {
  return mass_within(t, n, a, limit.t, limit.ids_within(first, n));
}

// W_T of a tile, over the tokens within the limit.
inline uint64_t kept_tile_mass(const Row& row, int64_t tile, const Limit& limit) {
  const int64_t first = tile * kTile;
  const float a = row.tile_reference[tile];
  if (!(a > -INFINITY && a >= row.reference - 51.0f && row.tile_max[tile] >= limit.t)) return 0;
  return kept_mass(row.t + first, first, tile_length(row.n, first), a, limit);
}

// The survivors of a row's filters: the limit, and the tokens themselves where they were gathered
// (count < 0 where they were not: all of the row up to the limit).
struct Survivors {
  Limit limit;
  Candidate* tokens;
  int64_t count = -1;
  bool masses_known = false;  // row.tile_mass already holds the survivors' masses

  bool listed() const { return count >= 0; }
  void shrink(const Limit& next) {
    limit = stricter(limit, next);
    masses_known = false;
    if (!listed()) return;
    const auto outside = [this](const Candidate& c) {
      return !keeps(limit, key_t(c.key), key_id(c.key));
    };
    count = std::remove_if(tokens, tokens + count, outside) - tokens;
  }
};

// The shortest prefix of the rank whose mass reaches `target`, by halving: nth_element splits at
// the median, the sum of the better half says which half the boundary is in. The candidates' mass
// must reach the target.
inline Limit nucleus_limit(Candidate* c, int64_t n, uint64_t target) {
  int64_t low = 0, high = n;
  uint64_t above = 0;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    std::nth_element(c + low, c + middle, c + high, ByRank());
    const uint64_t better = mass_of(c + low, middle - low);
    if (above + better >= target) {
      high = middle;
    } else {
      above += better;
      low = middle;
    }
  }
  return key_limit(c[low].key);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SELECT_H_
