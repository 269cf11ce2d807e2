// Sums of integer masses (numerics.md §3) over the tokens of a tile: of all, of those within a
// cutoff, of those above a cut. Each is written twice, as a scalar loop and with simd.h.
#ifndef EFT_CPU_MASSES_H_
#define EFT_CPU_MASSES_H_

#include "common/mass.h"
#include "cpu/scratch.h"
#include "cpu/simd.h"

namespace eft {
namespace {

// True where a - 100 is exact: all but rows whose |t| reaches 2^20.
inline bool is_exact_reference(float a) { return fabsf(a) < 0x1p20f; }

// ---- scalar -------------------------------------------------------------------------------------

// A token's mass before it is truncated, in units of 2^17: P(f) 2^(23-d), exact in fp32.
inline __attribute__((always_inline)) float share_of(float t, float a) {
  const float n = floorf(t);
  const float fraction = t - n;                           // NaN where t = -inf
  const float f = fraction > 0.0f ? fraction : 0.0f;      // and here 0
  const float distance = a - n;                           // +inf where t = -inf
  const float d = distance < 100.0f ? distance : 100.0f;  // 2^-60: no mass
  return exp2_fraction(f) * bit_cast<float>((127 + 23 - int32_t(d)) << 23);
}

// `token_mass` in two parts, mass = high * 2^17 + low, so that 32-bit lanes hold the sums of 256
// tokens (256 * (2^24 - 1) < 2^32) and nothing has to be widened on the way.
struct SplitMass {
  int32_t high, low;
  explicit SplitMass(float share)
      : high(int32_t(share)), low(int32_t((share - float(high)) * 0x1p17f)) {}
};

// The mass of the tokens where `keep(i)` is 1. It returns 1 or 0 because a condition would become a
// branch, which the compiler does not vectorise.
template <class Keep>
inline uint64_t mass_where(const float* t, int n, float a, const Keep& keep) {
  uint64_t sum = 0;
  for (int start = 0; start < n; start += kChunk) {
    const int end = n - start < kChunk ? n : start + kChunk;
    uint32_t high = 0, low = 0;
#pragma omp simd reduction(+ : high, low)
    for (int i = start; i < end; ++i) {
      const SplitMass w(share_of(t[i], a));
      const uint32_t mask = 0u - uint32_t(keep(i));
      high += uint32_t(w.high) & mask;
      low += uint32_t(w.low) & mask;
    }
    sum += (uint64_t(high) << 17) + low;
  }
  return sum;
}

// ---- SIMD ---------------------------------------------------------------------------------------

#ifdef EFT_SIMD
// P(f) of `exp2_fraction`, times 2^(n - unit): a token's share of the reference. `kClean`: all
// tokens are finite. Always inlined, or each call would load the constants again.
template <bool kClean>
inline __attribute__((always_inline)) void shares(const float* t, float a, Lanes* w) {
  const Lanes lowest = splat(a - 100.0f), unit = splat(a - LaneMasses::kUnit);
  Lanes x[kInterleaved], n[kInterleaved], p[kInterleaved];
  const auto each = [](const auto& operation) {
    for (int u = 0; u < kInterleaved; ++u) operation(u);
  };
  each([&](int u) { x[u] = load(t + 16 * u); });
  if (!kClean) each([&](int u) { x[u] = larger(x[u], lowest); });
  each([&](int u) { n[u] = round_down(x[u]); });
  each([&](int u) { x[u] = sub(x[u], n[u]); });
  each([&](int u) { p[u] = multiply_add(splat(0x1.e97502p-10f), x[u], splat(0x1.277854p-7f)); });
  each([&](int u) { p[u] = multiply_add(p[u], x[u], splat(0x1.c91ce6p-5f)); });
  each([&](int u) { p[u] = multiply_add(p[u], x[u], splat(0x1.ebdb56p-3f)); });
  each([&](int u) { p[u] = multiply_add(p[u], x[u], splat(0x1.62e4bap-1f)); });
  each([&](int u) { p[u] = multiply_add(p[u], x[u], splat(1.0f)); });
  each([&](int u) { w[u] = times_power(p[u], sub(n[u], unit)); });
}

constexpr int kTokensPerStep = 16 * kInterleaved;

// Calls `use(i, w)` for the sixteen tokens from each i on. Reads whole steps: after the n tokens
// follows -inf.
template <bool kClean, class Use>
inline __attribute__((always_inline)) void for_each_share(const float* t, int n, float a,
                                                          const Use& use) {
  Lanes w[kInterleaved];
  for (int i = 0; i < n; i += kTokensPerStep) {
    shares<kClean>(t + i, a, w);
    for (int u = 0; u < kInterleaved; ++u) use(i + 16 * u, w[u]);
  }
}
#endif

// ---- the sums -----------------------------------------------------------------------------------

// The mass of a tile's n tokens, padded with -inf to whole chunks. `clean`: all are finite.
inline uint64_t mass_of(const float* t, int n, float a, bool clean) {
#ifdef EFT_SIMD
  if (is_exact_reference(a)) {
    LaneSum sum;
    const auto add = [&](int, Lanes w) { sum.add(LaneMasses(w)); };
    clean ? for_each_share<true>(t, n, a, add) : for_each_share<false>(t, n, a, add);
    return sum.total();
  }
#endif
  (void)clean;
  return mass_where(t, n, a, [](int) { return 1; });
}

// The mass of those with t > cut, or t = cut and i <= last. `kPadded`: after the n tokens follows
// -inf.
template <bool kPadded = true>
inline uint64_t mass_within(const float* t, int n, float a, float cut, int last) {
#ifdef EFT_SIMD
  if (is_exact_reference(a)) {
    LaneSum sum;
    const Lanes threshold = splat(cut);
    for_each_share<false>(t, n, a, [&](int i, Lanes w) {
      const Lanes x = load(t + i);
      const LaneMask tied = and_(equal(x, threshold), first_lanes(last + 1 - i));
      const LaneMask inside = or_(above(x, threshold), tied);
      sum.add(LaneMasses(w), kPadded ? inside : and_(inside, first_lanes(n - i)));
    });
    return sum.total();
  }
#endif
  return mass_where(t, n, a,
                    [=](int i) { return int(t[i] > cut) | (int(t[i] == cut) & int(i <= last)); });
}

// The mass of those with t > cut; padded with -inf to whole chunks.
inline uint64_t mass_above(const float* t, int n, float a, float cut) {
#ifdef EFT_SIMD
  if (is_exact_reference(a)) {
    LaneSum sum;
    const Lanes threshold = splat(cut);
    for_each_share<true>(  // the mask drops what -inf becomes
        t, n, a, [&](int i, Lanes w) { sum.add(LaneMasses(w), above(load(t + i), threshold)); });
    return sum.total();
  }
#endif
  return mass_where(t, n, a, [=](int i) { return int(t[i] > cut); });
}

// The part of the mass of those with t > cut that is lost at a reference `shift` above the tile's,
// where each token loses that many low bits. In units of the tile's reference.
inline uint64_t mass_lost_above(const float* t, int n, float a, int shift, float cut) {
#ifdef EFT_SIMD
  if (is_exact_reference(a)) {
    LaneSum lost;
    const Lanes threshold = splat(cut);
    const LowBits low(shift);
    for_each_share<true>(t, n, a, [&](int i, Lanes w) {  // the mask drops what -inf becomes
      lost.add(LaneMasses(LaneMasses(w), low), above(load(t + i), threshold));
    });
    return lost.total();
  }
#endif
  const auto keep = [=](int i) { return int(t[i] > cut); };
  return mass_where(t, n, a, keep) - (mass_where(t, n, a + float(shift), keep) << shift);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_MASSES_H_
