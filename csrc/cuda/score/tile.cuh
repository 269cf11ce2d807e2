// A tile of one distribution in the registers of one warp, 32 tokens a lane: its logits, and the
// sums behind every statistic. The arithmetic of csrc/cpu/score_tile.h, exponentials bit for bit.
#ifndef EFT_CUDA_SCORE_TILE_CUH_
#define EFT_CUDA_SCORE_TILE_CUH_

#include "common/mass.h"
#include "cuda/common/mix.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/score/plan.cuh"

namespace eft {
namespace {

constexpr float kUnderflow = -87.0f;
constexpr int kHalf = kGroup / 2;

__device__ __forceinline__ int half_id(int tile, int half, int lane) {
  return piece_id(tile, 2 * half, lane);
}

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
    const float exponential = exp_live(below);
    const float e = d > kUnderflow && !at_top ? exponential : 0.0f;
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

__device__ __forceinline__ TileShare empty_share(float max) {
  return {max, 0.0f, 0.0f, 0.0f, 0, 0};
}

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

// Pieces of a lane's tokens as they lie in memory, any dtype and alignment.
template <int kPieces>
__device__ __forceinline__ void load_pieces(const Model& model, int n, int id, float* v) {
  Piece pieces[kPieces];
#pragma unroll
  for (int j = 0; j < kPieces; ++j) {
    pieces[j] = load_piece(model.logits, model.dtype, id + j * (kTile / 4), n);
  }
#pragma unroll
  for (int j = 0; j < kPieces; ++j) widen(pieces[j], model.dtype, v + j * kPiece);
}

template <int kPieces>
__device__ __forceinline__ void load_model(const Model& model, int n, int id, float* v) {
  load_pieces<kPieces>(model, n, id, v);
#pragma unroll
  for (int i = 0; i < kPieces * kPiece; ++i) v[i] = model_logit(v[i], model.lowest);
}

// A tile by way of the warp's shared memory, a half at a time. Pieces of any dtype, alignment and
// mixture take too many registers for 32 tokens at once. Each lane has banks of its own.
struct WarpTile {
  float* memory;  // [32, 32]

  __device__ void put(int half, int lane, const float* v) const {
#pragma unroll
    for (int i = 0; i < kHalf; ++i) memory[(half * kHalf + i) * 32 + lane] = v[i];
  }
  __device__ void get(int lane, float* x) const {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) x[i] = memory[i * 32 + lane];
  }

  // A model's logits as they are.
  __device__ void model(const Model& model, int n, int tile, int lane, float* x) const {
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      float v[kHalf];
      load_pieces<2>(model, n, half_id(tile, half, lane), v);
      put(half, lane, v);
    }
    get(lane, x);
  }

  // The mixture, of whatever kind. True as for mix_pieces.
  __device__ bool mixture(const RowInputs& inputs, int tile, int lane, float* z) const {
    bool bad = false;
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      float v[kHalf];
      bad |= mix_pieces<2, true>(inputs, half_id(tile, half, lane), kTile / 4, v);
      put(half, lane, v);
    }
    get(lane, z);
    return bad;
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_SCORE_TILE_CUH_
