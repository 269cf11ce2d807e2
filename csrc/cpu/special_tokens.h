// Tokens that the models do not share (numerics.md §15). A row is read with them left out, then the
// few tiles that they lie in are formed again.
#ifndef EFT_CPU_SPECIAL_TOKENS_H_
#define EFT_CPU_SPECIAL_TOKENS_H_

#include <limits>

#include "cpu/conservative.h"

namespace eft {
namespace {

// The largest of a tile's logits, none of which is NaN.
template <class Integer, class T>
float largest_logit(const T* x, int n) {
  constexpr int kMany = 64 / int(sizeof(T));  // two vectors, so that neither waits for the other
  constexpr int kBits = 8 * int(sizeof(T));
  Integer most[kMany];
  std::fill(most, most + kMany, std::numeric_limits<Integer>::min());
  // The bits as integers are in the floats' order once those of negative values are turned around.
  const auto ordered = [](Integer bits) -> Integer {
    return Integer(bits ^ ((bits >> (kBits - 1)) & std::numeric_limits<Integer>::max()));
  };
  const Integer* const bits = reinterpret_cast<const Integer*>(x);
  int i = 0;
  for (; i + kMany <= n; i += kMany) {
#pragma omp simd
    for (int lane = 0; lane < kMany; ++lane) {
      const Integer key = ordered(bits[i + lane]);
      most[lane] = key > most[lane] ? key : most[lane];
    }
  }
  Integer largest = *std::max_element(most, most + kMany);
  for (; i < n; ++i) largest = std::max(largest, ordered(bits[i]));
  return to_float(bit_cast<T>(ordered(largest)));
}

inline float largest_logit(const eft_logits& x, int64_t row, int64_t first, int n) {
  switch (x.dtype) {
    case EFT_BF16: return largest_logit<int16_t>(logits_at<Bf16>(x, row, first), n);
    case EFT_FP16: return largest_logit<int16_t>(logits_at<Fp16>(x, row, first), n);
    default: return largest_logit<int32_t>(logits_at<float>(x, row, first), n);
  }
}

// Lets the mixture look for logits of the owner above its best so far.
inline void look_for(Mixture& mixture, int owner, float best) {
  mixture.owner = 1 + owner;
  mixture.best_of_owner = best;
}
inline void look_for(ConservativeMixture&, int, float) {}
inline void stop_looking(Mixture& mixture) { mixture.owner = 0; }
inline void stop_looking(ConservativeMixture&) {}

inline bool bit_of(const int32_t* words, int i) { return uint32_t(words[i / 32]) >> i % 32 & 1; }

// A row's mixture `Inner` with special tokens. Until delta is known own tokens are left out too,
// and the maxima that make delta are taken.
template <class Inner>
struct SpecialMixture {
  mutable Inner inner;
  bool has_own;  // and the row listens to their owner
  mutable bool known = false, bad = false;
  mutable bool lazy = false;  // delta is looked for only where an own token may be the largest
  mutable float best_of_owner = -INFINITY, delta = 0;

  explicit SpecialMixture(const Inner& inner)
      : inner(inner),
        has_own(special().owner >= 0 && inner.options.weights[special().owner] > 0.0f) {
    if (has_own) look_for(this->inner, special().owner, best_of_owner);
  }

  const eft_step& step() const { return inner.step; }
  const eft_special_tokens& special() const { return step().special; }
  int32_t mask_of(int64_t first) const { return special().tiles[first / kTile]; }

  TileReport operator()(int64_t first, int n, float c, float* t, float* group_max) const {
    TileReport report = inner(first, n, c, t, group_max);
    if (mask_of(first) >= 0) report = put_special(report.finite, first, n, c, t);
    if (has_own && !known) {
      bad |= !report.finite;
      if (!lazy && (!report.owner_below || step().bias)) look_at_owner(report, first, n, c, t);
    }
    return report;
  }

  // The largest y of a tile, before delta is known: without the special tokens.
  float largest(int64_t first, int n) const {
    alignas(64) float y[kTile];
    float group_max[kTile / kLanes];
    const TileReport report = (*this)(first, n, 1.0f, y, group_max);
    return report.has_maxima ? report.max_t : *std::max_element(y, y + n);
  }

  // `best`: the largest y.
  void set_delta(float best) const {
    delta = bad ? NAN : best > -INFINITY ? best - best_of_owner : 0.0f;
    known = true;
  }

  // delta from a read of its own.
  void find_delta() const {
    if (!has_own || known) return;
    if (lazy) look_for(inner, special().owner, best_of_owner);
    lazy = false;
    float best = -INFINITY;
    for (int64_t first = 0; first < step().vocab_size; first += kTile) {
      best = std::max(best, largest(first, tile_length(step().vocab_size, first)));
    }
    set_delta(best);
  }

  // Calls `use` with the first id of each tile that has special tokens.
  template <class Use>
  void for_each_special_tile(const Use& use) const {
    for (int64_t first = 0; first < step().vocab_size; first += kTile) {
      if (mask_of(first) >= 0) use(first);
    }
  }

  // Calls `use` with the place of each own token in a tile.
  template <class Use>
  void for_each_own(int64_t first, int n, const Use& use) const {
    const int32_t* const own = words_of(first) + kTile / 32;
    for (int start = 0; start < n; start += 32) {
      for (uint32_t left = uint32_t(own[start / 32]); left; left &= left - 1) {
        const int i = start + __builtin_ctz(left);
        if (i < n) use(i);
      }
    }
  }

  // The owner's logit of a token with the bias; -inf where an own token is excluded.
  float tau(int64_t id) const {
    const eft_logits& logits = step().logits[special().owner];
    float x;
    load_as_fp32(logits, inner.row, id, 1, &x);
    return x <= lowest_of(logits.dtype) || is_forbidden(id) ? -INFINITY : x + bias_at(id);
  }

  // t of an own token.
  float own_t(int64_t id, float c) const { return (tau(id) + delta) * c; }

 private:
  float bias_at(int64_t id) const {
    return step().bias ? step().bias[inner.row * step().bias_row_stride + id] : -0.0f;
  }
  bool is_forbidden(int64_t id) const {
    return step().token_bitmask &&
           !bit_of(step().token_bitmask + inner.row * step().token_bitmask_row_stride + id / 32,
                   int(id % 32));
  }

  const int32_t* words_of(int64_t first) const {
    return special().masks + int64_t(mask_of(first)) * 2 * (kTile / 32);
  }

  // `finite`: the tile is, with what the mixture makes of the special tokens.
  TileReport put_special(bool finite, int64_t first, int n, float c, float* t) const {
    const int32_t* const mask = words_of(first);
    for (int start = 0; start < n; start += 32) {
      const uint32_t word = uint32_t(mask[start / 32]);
      if (word == 0) continue;
      const int count = std::min(32, n - start);
      for (int i = 0; i < count; ++i) t[start + i] = word >> i & 1 ? -INFINITY : t[start + i];
    }
    if (has_own && known) {
      for_each_own(first, n, [&](int i) {
        t[i] = own_t(first + i, c);
        finite &= t[i] < INFINITY;
      });
    }
    if (!finite) finite = std::all_of(t, t + n, [](float x) { return x < INFINITY; });
    return {finite, false, false, 0.0f};
  }

  void look_at_owner(const TileReport& report, int64_t first, int n, float c,
                     const float* t) const {
    if (report.clean && !step().bias) {
      const bool found = report.owner_max == report.owner_max;
      const eft_logits& owner = step().logits[special().owner];
      return raise_owner(found ? report.owner_max : largest_logit(owner, inner.row, first, n));
    }
    // A finite z may overflow in t. Then z decides who is left.
    alignas(64) float z[kTile];
    float group_max[kTile / kLanes];
    const float* y = t;
    if (!report.has_maxima && c > 1.0f) {
      inner(first, n, 1.0f, z, group_max);
      if (mask_of(first) >= 0) put_special(true, first, n, 1.0f, z);
      y = z;
    }
    alignas(64) float x[kTile];
    load_as_fp32(step().logits[special().owner], inner.row, first, n, x);
    if (step().bias) {
      const float* const bias = step().bias + inner.row * step().bias_row_stride + first;
#pragma omp simd
      for (int i = 0; i < n; ++i) x[i] += bias[i];
    }
    float most[kLanes];
    std::fill(most, most + kLanes, -INFINITY);
    for (int start = 0; start < n; start += kLanes) {
      const int count = std::min(kLanes, n - start);
#pragma omp simd
      for (int lane = 0; lane < count; ++lane) {
        const float own = y[start + lane] > -INFINITY ? x[start + lane] : -INFINITY;
        most[lane] = own > most[lane] ? own : most[lane];
      }
    }
    raise_owner(*std::max_element(most, most + kLanes));
  }

  void raise_owner(float found) const {
    if (!(found > best_of_owner)) return;
    best_of_owner = found;
    look_for(inner, special().owner, found);
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SPECIAL_TOKENS_H_
