// A tile of one distribution in the registers of one warp, 32 tokens a lane: its logits and the
// sums that every statistic is made of. The arithmetic of csrc/cpu/score_tile.h, exponentials bit
// for bit.
#ifndef EFT_CUDA_SCORE_TILE_H_
#define EFT_CUDA_SCORE_TILE_H_

#include "cuda/rank.h"
#include "cuda/score_plan.h"

namespace eft {
namespace {

constexpr float kUnderflow = -87.0f;

// exp(x) for x from kUnderflow to 0, relative error below 2e-7. log2(e) in two parts, or the
// product's rounding alone would cost 1e-6 at x = -20. floor is an addition that rounds down.
__device__ __forceinline__ float exp_live(float x) {
  const float s = add_down(x * 0x1.715476p0f, 0x1.8p23f);
  const float n = s - 0x1.8p23f;
  const float f = fmaf(x, 0x1.4ae0cp-26f, fmaf(x, 0x1.715476p0f, -n));
  return __uint_as_float(__float_as_uint(exp2_fraction(f)) + (__float_as_uint(s) << 23));
}

// exp(x) for x <= 0, and 0 from kUnderflow down.
__device__ __forceinline__ float exp_or_zero(float x) {
  const float e = exp_live(fmaxf(x, kUnderflow));
  return x > kUnderflow ? e : 0.0f;
}

// The whole warp; `top` is the tile's maximum, finite.
__device__ __forceinline__ TileShare share_of(const float* x, float top) {
  float lower = 0.0f, weighted = 0.0f, squares = 0.0f;
  uint32_t maxima = 0;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    const float d = x[i] - top, below = fmaxf(d, kUnderflow);
    const bool at_top = d == 0.0f;
    const float e = d > kUnderflow && !at_top ? exp_live(below) : 0.0f;
    lower += e;
    weighted = fmaf(e, below, weighted);
    squares = fmaf(e, e, squares);
    maxima += at_top;
  }
  TileShare share;
  share.max = top;
  share.lower = warp_add(lower);
  share.weighted = warp_add(weighted);
  share.squares = warp_add(squares);
  share.maxima = __reduce_add_sync(0xffffffffu, maxima);
  share.before = 0;
  return share;
}

__device__ __forceinline__ TileShare empty_share(float max) { return {max, 0.0f, 0.0f, 0.0f, 0, 0}; }

__device__ __forceinline__ float largest_of(const float* x) {
  float top = x[0];
#pragma unroll
  for (int i = 1; i < kGroup; ++i) top = fmaxf(top, x[i]);
  return warp_max(top);
}

// The next larger float of one that is finite or -inf: x > a is x >= next_up(a).
__device__ __forceinline__ float next_up(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return __uint_as_float(bits & 0x80000000u ? bits - 1 : bits + 1);
}

// Tokens of the warp's tile that rank before the target: those above its logit, and those equal to
// it with lower ids.
__device__ __forceinline__ uint32_t count_before(const float* x, int tile, int lane, float logit,
                                                 int target) {
  const float above = next_up(logit);
  uint32_t count = 0;
  if (tile != target / kTile) {
    const float at_least = tile < target / kTile ? logit : above;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) count += x[i] >= at_least;
  } else {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      count += x[i] >= (token_id(tile, lane, i) < target ? logit : above);
    }
  }
  return __reduce_add_sync(0xffffffffu, count);
}

// A model's own logit: -inf where the model itself excludes. In a row whose mixture is valid, a
// token with NaN or +inf is excluded by something else: it is left out here too.
__device__ __forceinline__ float own_logit(float x, float lowest) {
  return x <= lowest || !(x < INFINITY) ? -INFINITY : x;
}

// Pieces of a lane's tokens as they lie in memory, any dtype and alignment.
template <int kPieces>
__device__ __forceinline__ void load_pieces(const Model& model, int n, int id, float* v) {
  Piece pieces[kPieces];
#pragma unroll
  for (int j = 0; j < kPieces; ++j) {
    pieces[j] = load_piece(model.x, model.dtype, id + j * (kTile / 4), n);
  }
#pragma unroll
  for (int j = 0; j < kPieces; ++j) widen(pieces[j], model.dtype, v + j * kPiece);
}

template <int kPieces>
__device__ __forceinline__ void load_own(const Model& model, int n, int id, float* v) {
  load_pieces<kPieces>(model, n, id, v);
#pragma unroll
  for (int i = 0; i < kPieces * kPiece; ++i) v[i] = own_logit(v[i], model.lowest);
}

// The mixture, of whatever kind; in two halves, since a conservative one holds a second logit of
// each token. True as for mix_pieces.
__device__ __forceinline__ bool load_mixture(const Mixer& m, int tile, int lane, float* z) {
  const int id = piece_id(tile, 0, lane);
  const bool bad = mix_pieces<2, true>(m, id, kTile / 4, z);
  return mix_pieces<2, true>(m, id + kTile / 2, kTile / 4, z + kGroup / 2) || bad;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_SCORE_TILE_H_
