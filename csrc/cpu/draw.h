// The draw (numerics.md §5): the survivors' masses, and the walk from 64 random bits to a
// token. The bits are made by `random_bits` in common/philox.h.
#ifndef EFT_CPU_DRAW_H_
#define EFT_CPU_DRAW_H_

#include "common/philox.h"
#include "cpu/survivors.h"

namespace eft {
namespace {

// The token that `bits` point at, in the survivors' mass S: tiles by ascending id, then strides of
// 64 tokens within the tile, then tokens.
inline int64_t draw(const Row& row, const Cutoff& cutoff, uint64_t mass, uint64_t bits) {
  uint64_t rest = mul_high(bits, mass);
  int64_t tile = 0;
  int shift = 0;
  for (;; ++tile) {
    shift = tile_shift(row.reference, row.tile_reference[tile]);
    const uint64_t share = row.tile_mass[tile] >> shift;
    if (rest < share) break;
    rest -= share;
  }
  if (shift) rest = (rest << shift) | (bits * mass) >> (64 - shift);

  constexpr int kStride = 64;
  const float a = row.tile_reference[tile];
  const int64_t end = std::min(row.n, (tile + 1) * kTile);
  int64_t i = tile * kTile;
  for (;; i += kStride) {
    const int n = int(std::min<int64_t>(kStride, end - i));
    const uint64_t stride = mass_within(row.t + i, n, a, cutoff.t, cutoff.last_kept_tie(i, n));
    if (rest < stride) break;
    rest -= stride;
  }
  for (;; ++i) {
    if (!keeps(cutoff, row.t[i], uint32_t(i))) continue;
    const uint64_t token = token_mass(row.t[i], a);
    if (rest < token) return i;
    rest -= token;
  }
}

// The lowest id of the largest t.
inline int64_t first_max(const Row& row) {
  int64_t tile = 0;
  while (row.tile_max[tile] != row.max_t) ++tile;
  int64_t i = tile * kTile;
  while (row.t[i] != row.max_t) ++i;
  return i;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_DRAW_H_
