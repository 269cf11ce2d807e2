// Lists of a row's tokens, and the place where a measure of a row or a list reaches a goal.
#ifndef EFT_CPU_PICKED_H_
#define EFT_CPU_PICKED_H_

#include <algorithm>

#include "cpu/row.h"

namespace eft {
namespace {

// Ends the list, in a way that whole steps of it can be read.
inline void end_list(Picked& list, int64_t count) {
  list.count = count;
  std::fill(list.t + count, list.t + count + kPickedPadding, -INFINITY);
}

// Gives each token its share of the mass at `reference`.
inline void weigh(Picked& list, float reference) {
  list.reference = reference;
  const float* t = list.t;
  float* share = list.share;
#ifdef EFT_LANES
  if (is_near(reference)) {
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
inline void add_by_tile(const Picked& list, Row& row) {
  const uint32_t* const end = list.id + list.count;
  for (const uint32_t* id = list.id; id < end;) {
    const int64_t tile = *id / kTile;
    const uint32_t* next = id + 1;  // few are listed in most tiles
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

// Groups whose largest token is at least this.
inline int64_t num_groups_from(const Row& row, float at_least) {
  int32_t count = 0;
  const int32_t groups = int32_t(padded(row.n) / kLanes);
#pragma omp simd reduction(+ : count)
  for (int32_t g = 0; g < groups; ++g) count += row.group_max[g] >= at_least;
  return count;
}

inline __attribute__((always_inline)) bool any_above(const float* group_max, float low) {
#ifdef EFT_LANES
  return count(above(load(group_max), splat(low))) != 0;
#else
  int any = 0;
#pragma omp simd reduction(| : any)
  for (int g = 0; g < kLanes; ++g) any |= group_max[g] > low;
  return any;
#endif
}

// Appends a chunk's tokens with low < t <= high; how many.
inline int append_between(const float* t, uint32_t first, float low, float high, float* to_t,
                          uint32_t* to_id) {
  int count = 0;
#ifdef EFT_LANES_AVX512
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

// All tokens with low < t <= high, by ascending id.
inline void pick_between(const Row& row, float low, float high, Picked& out) {
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

// ---- what lies above a cut ----

struct Above {
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

inline Above counted_above(const Picked& list, float cut) {
  const uint64_t count = count_above(list.t, list.count, cut);
  return {count, count};
}

// Of a list that was weighed: its mass.
inline Above measure_above(const Picked& list, float cut) {
  Above total{};
  for (int64_t first = 0; first < list.count; first += kTile) {
    const float* t = list.t + first;
    const float* share = list.share + first;
    const int n = tile_length(list.count, first);
#ifdef EFT_LANES
    LaneSum sum;
    int tokens = 0;
    const Lanes limit = splat(cut);
    for (int i = 0; i < n; i += 16) {
      const LaneMask over = above(load(t + i), limit);
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

// ---- the place where a measure reaches a goal ----

// The order of floats as that of integers; -0 and +0 are neighbours.
inline int32_t order_of(float t) {
  const int32_t bits = bit_cast<int32_t>(t);
  return bits ^ (bits >> 31 & 0x7fffffff);
}
inline float from_order(int32_t order) {
  return bit_cast<float>(order ^ (order >> 31 & 0x7fffffff));
}
// Below both zeros, for one of them.
inline float next_below(float t) { return from_order((t == 0.0f ? -1 : order_of(t)) - 1); }

constexpr float kBeyond = 0x1p-5f;  // of the bracket

// measure(t > low) = at_low >= goal > above = measure(t > high).
struct Bracket {
  float low, high;
  uint64_t at_low, above;

  bool closed() const { return int64_t(order_of(high)) - order_of(low) <= 1; }
  float middle() const {
    const int64_t below = order_of(low), over = order_of(high);
    return from_order(int32_t(below + (over - below) / 2));
  }
  // A little beyond where a straight line between the ends reaches the goal, seen from the nearer
  // end: so the goal comes to lie between the two, and the other end is what moves.
  float secant(uint64_t goal) const {
    const float share = float(at_low - goal) / float(at_low - above);
    const float aim = share < 0.5f ? share + kBeyond : share - kBeyond;
    const float cut = low + (high - low) * aim;
    return cut > low && cut < high ? cut : middle();
  }
  void narrow(float cut, uint64_t measure, uint64_t goal) {
    (measure >= goal ? low : high) = cut;
    (measure >= goal ? at_low : above) = measure;
  }
};

// Moves the ends to the outermost listed tokens between them: where values tie by the hundred, as
// they do far below the maximum of bf16 logits, this is what closes the bracket.
inline void tighten(const Picked& list, Bracket& b) {
  float top = -INFINITY, bottom = INFINITY;
#ifdef EFT_LANES
  Lanes tops = splat(top), bottoms = splat(bottom);
  const Lanes low = splat(b.low), high = splat(b.high);
  for (int64_t i = 0; i < list.count; i += 16) {  // what follows the list is -inf
    const Lanes t = load(list.t + i);
    const LaneMask in = and_not(above(t, low), above(t, high));
    tops = larger(tops, choose(in, t, splat(-INFINITY)));
    bottoms = smaller(bottoms, choose(in, t, splat(INFINITY)));
  }
  top = largest(tops);
  bottom = -largest(sub(splat(-0.0f), bottoms));
#else
  for (int64_t i = 0; i < list.count; ++i) {
    const float t = list.t[i];
    if (!(t > b.low && t <= b.high)) continue;
    top = std::max(top, t);
    bottom = std::min(bottom, t);
  }
#endif
  b.high = top == 0.0f ? -0.0f : top;  // the lower of the zeros: a bracket of zeros is closed
  b.low = next_below(bottom);
}

constexpr int kRanked = 64;  // so many tokens are sorted rather than measured again

// Closes a bracket: `high` becomes the largest t at which the goal is reached. The list holds the
// tokens between its ends, weighed if the measure is mass. `guess` may lie anywhere. Of the result
// only `high` and `above` count.
template <bool kByMass>
inline Bracket close(Bracket b, const Picked& list, uint64_t goal, float guess) {
  const uint64_t outside = b.above;
  uint64_t from_low = uint64_t(list.count), from_high = 0;  // tokens of the list above the ends
  for (int round = 0; from_low - from_high > kRanked && !b.closed(); ++round) {
    const bool guessed = round == 0 && guess > b.low && guess < b.high;
    const float cut = guessed ? guess : round % 3 == 2 ? b.middle() : b.secant(goal);
    const Above over = kByMass ? measure_above(list, cut) : counted_above(list, cut);
    b.narrow(cut, outside + over.measure, goal);
    (b.low == cut ? from_low : from_high) = over.tokens;
    if (round % 3 == 2) tighten(list, b);
  }
  if (b.closed()) return b;
  float ranked[kRanked + 1];
  int count = 0;
  for (int64_t i = 0; i < list.count; ++i) {
    ranked[count] = list.t[i];
    count += (list.t[i] > b.low) & (list.t[i] <= b.high);
  }
  std::sort(ranked, ranked + count, std::greater<float>());
  uint64_t sum = b.above;
  for (int i = 0; i < count; ++i) {
    if (i == 0 || ranked[i] != ranked[i - 1]) b.above = sum;
    sum += kByMass ? token_mass(ranked[i], list.reference) : 1;
    b.high = ranked[i];
    if (sum >= goal) break;
  }
  return b;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_PICKED_H_
