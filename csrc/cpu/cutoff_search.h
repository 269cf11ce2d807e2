// The exact t at which a measure of a row or list (its tokens counted, or weighed by mass) reaches
// a goal: a bracket around it is narrowed until it is closed.
#ifndef EFT_CPU_CUTOFF_SEARCH_H_
#define EFT_CPU_CUTOFF_SEARCH_H_

#include "cpu/token_list.h"

namespace eft {
namespace {

// Floats as integers of the same order; -0 and +0 are neighbours.
inline int32_t order_of(float t) {
  const int32_t bits = bit_cast<int32_t>(t);
  return bits ^ (bits >> 31 & 0x7fffffff);
}
inline float from_order(int32_t order) {
  return bit_cast<float>(order ^ (order >> 31 & 0x7fffffff));
}
// The next smaller float; below both zeros for either of them.
inline float next_below(float t) { return from_order((t == 0.0f ? -1 : order_of(t)) - 1); }

constexpr float kOvershoot = 0x1p-5f;  // of the secant, as a share of the bracket

// Invariant: measure(t > low) = at_low >= goal > above = measure(t > high).
struct Bracket {
  float low, high;
  uint64_t at_low, above;

  bool closed() const { return int64_t(order_of(high)) - order_of(low) <= 1; }
  float middle() const {
    const int64_t below = order_of(low), over = order_of(high);
    return from_order(int32_t(below + (over - below) / 2));
  }
  // Where a straight line between the ends reaches the goal, and a little further from the nearer
  // end: so both ends move, and not only the nearer one again and again.
  float secant(uint64_t goal) const {
    const float share = float(at_low - goal) / float(at_low - above);
    const float aim = share < 0.5f ? share + kOvershoot : share - kOvershoot;
    const float cut = low + (high - low) * aim;
    return cut > low && cut < high ? cut : middle();
  }
  void narrow(float cut, uint64_t measure, uint64_t goal) {
    (measure >= goal ? low : high) = cut;
    (measure >= goal ? at_low : above) = measure;
  }
};

// Moves the ends to the outermost listed tokens between them. This closes the bracket where values
// tie by the hundred, as they do far below the maximum of bf16 logits.
inline void tighten(const TokenList& list, Bracket& b) {
  float top = -INFINITY, bottom = INFINITY;
#ifdef EFT_SIMD
  Lanes tops = splat(top), bottoms = splat(bottom);
  const Lanes low = splat(b.low), high = splat(b.high);
  for (int64_t i = 0; i < list.count; i += 16) {  // what follows the list is -inf
    const Lanes t = load(list.t + i);
    const LaneMask in = and_not(above(t, low), above(t, high));
    tops = larger(tops, blend(in, t, splat(-INFINITY)));
    bottoms = smaller(bottoms, blend(in, t, splat(INFINITY)));
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

constexpr int kMaxSorted = 64;  // this many tokens are sorted instead of measured again

// Closes a bracket: `high` becomes the largest t at which the goal is reached. The list holds the
// tokens between the ends, weighed if the measure is mass. `guess` may lie anywhere. Only `high`
// and `above` of the result are meaningful.
template <bool kByMass>
inline Bracket close_bracket(Bracket b, const TokenList& list, uint64_t goal, float guess) {
  const uint64_t outside = b.above;
  uint64_t from_low = uint64_t(list.count), from_high = 0;  // tokens of the list above the ends
  for (int round = 0; from_low - from_high > kMaxSorted && !b.closed(); ++round) {
    const bool guessed = round == 0 && guess > b.low && guess < b.high;
    const float cut = guessed ? guess : round % 3 == 2 ? b.middle() : b.secant(goal);
    const AboveCut over = kByMass ? weigh_listed_above(list, cut) : count_listed_above(list, cut);
    b.narrow(cut, outside + over.measure, goal);
    (b.low == cut ? from_low : from_high) = over.tokens;
    if (round % 3 == 2) tighten(list, b);
  }
  if (b.closed()) return b;
  float ranked[kMaxSorted + 1];
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
#endif  // EFT_CPU_CUTOFF_SEARCH_H_
