// The place where a measure of a row or a list, its tokens counted or weighed, reaches a goal.
#ifndef EFT_CPU_CLOSE_H_
#define EFT_CPU_CLOSE_H_

#include "cpu/picked.h"

namespace eft {
namespace {

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
#endif  // EFT_CPU_CLOSE_H_
