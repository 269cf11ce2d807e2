// The survivors' masses, and the walk from 64 random bits to a token.
#ifndef EFT_CPU_DRAW_H_
#define EFT_CPU_DRAW_H_

#include "cpu/nucleus.h"
#include "cpu/top_k.h"

namespace eft {
namespace {

// Rewrites row.tile_mass with the survivors' masses, formed as W_T are.
inline void survivor_masses(const Survivors& s, Row& row) {
  if (s.masses_known) return;
  if (s.listed) {
    std::fill(row.tile_mass, row.tile_mass + num_tiles(row), uint64_t(0));
    add_by_tile(s.tokens, row);
    return;
  }
  for (int64_t tile = 0; tile < num_tiles(row); ++tile) {
    row.tile_mass[tile] = kept_tile_mass(row, tile, s.limit);
  }
}

// The token at `bits` of the survivors' mass S: tiles by ascending id, then strides of 64 and
// tokens within the tile.
inline int64_t draw(const Row& row, const Limit& limit, uint64_t mass, uint64_t bits) {
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
    const uint64_t stride = mass_within(row.t + i, n, a, limit.t, limit.ids_within(i, n));
    if (rest < stride) break;
    rest -= stride;
  }
  for (;; ++i) {
    if (!keeps(limit, row.t[i], uint32_t(i))) continue;
    const uint64_t token = token_mass(row.t[i], a);
    if (rest < token) return i;
    rest -= token;
  }
}

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
