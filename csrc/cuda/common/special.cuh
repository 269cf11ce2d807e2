// Tokens that the models do not share (numerics.md §15). The mixture gives them any z; here they
// get theirs: an own token that of the formula once the row's delta is known, all others -inf.
#ifndef EFT_CUDA_COMMON_SPECIAL_CUH_
#define EFT_CUDA_COMMON_SPECIAL_CUH_

#include "cuda/common/bitmask.cuh"
#include "cuda/common/load.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/common/row_inputs.cuh"

namespace eft {
namespace {

// z of a token that is the owner's own.
__device__ __forceinline__ float own_logit(const RowInputs& inputs, int id) {
  if (!inputs.has_own_delta || id >= inputs.vocab_size) return -INFINITY;
  if (inputs.token_bitmask && !(load_bitmask(inputs, id) & 1)) return -INFINITY;
  const Model& owner = inputs.models[inputs.owner];
  const float x = load_token(owner.logits, owner.dtype, id);
  if (x <= owner.lowest) return -INFINITY;
  return (inputs.bias ? x + __ldg(inputs.bias + id) : x) + inputs.own_delta;
}

// The tokens of mix_ordinary, or of another mixture with its `bad`. True as for mix_ordinary: what
// it found among special tokens does not count.
template <int kPieces>
__device__ __forceinline__ bool set_special(const RowInputs& inputs, int id, int stride, float* z,
                                            bool bad) {
  if (!inputs.special_tiles) return bad;
  const int mask = __ldg(inputs.special_tiles + id / kTile);  // all pieces lie in one tile
  if (mask < 0) return bad;
  uint32_t special = 0, own = 0;  // bit j * 8 + i
  {
    [[maybe_unused]] const OneRoundTrip together;
#pragma unroll
    for (int j = 0; j < kPieces; ++j) {
      const int first = id + j * stride;
      const int32_t* word = inputs.special_masks + mask * (kTile / 16) + first % kTile / 32;
      special |= (uint32_t(__ldg(word)) >> first % 32 & 0xffu) << j * kPiece;
      own |= (uint32_t(__ldg(word + kTile / 32)) >> first % 32 & 0xffu) << j * kPiece;
    }
  }
  if (!special) return bad;
#pragma unroll 1
  for (; special; special &= special - 1) {
    const int at = __ffs(int(special)) - 1;
    const int token = id + at / kPiece * stride + at % kPiece;
    const float y = own >> at & 1 ? own_logit(inputs, token) : -INFINITY;
#pragma unroll
    for (int i = 0; i < kPieces * kPiece; ++i) z[i] = i == at ? y : z[i];
  }
  bad = false;
#pragma unroll
  for (int i = 0; i < kPieces * kPiece; ++i) bad |= !(z[i] * inputs.c < INFINITY);
  return bad;
}

__device__ __forceinline__ bool has_special(const RowInputs& inputs, int tile) {
  return inputs.special_tiles && __ldg(inputs.special_tiles + tile) >= 0;
}

// True until the row's delta is known: then the owner's maxima are needed beside the mixture's.
__device__ __forceinline__ bool needs_own_delta(const RowInputs& inputs) {
  return inputs.owner >= 0 && !inputs.has_own_delta;
}

__device__ __forceinline__ void set_own_delta(RowInputs& inputs, float delta) {
  inputs.own_delta = delta;
  inputs.has_own_delta = true;
}

// A warp's tile: the largest of the owner's logits, with the bias, over the tokens that z does not
// exclude. They are read again, from the cache that holds them now.
__device__ __forceinline__ float largest_of_owner(const RowInputs& inputs, int tile, int lane,
                                                  const float* z) {
  const Model owner = inputs.models[inputs.owner];
  uint32_t ordinary = 0;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) ordinary |= uint32_t(z[i] > -INFINITY) << i;
  Piece pieces[4];
  {
    [[maybe_unused]] const OneRoundTrip together;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int id = piece_id(tile, j, lane);
      pieces[j] = load_piece(owner.logits, owner.dtype, id, inputs.vocab_size);
    }
  }
  float largest = -INFINITY;
#pragma unroll 1  // one copy of the load of a bias
  for (int j = 0; j < 4; ++j, ordinary >>= kPiece) {
    float tau[kPiece];
    widen(pieces[0], owner.dtype, tau);
#pragma unroll
    for (int p = 1; p < 4; ++p) pieces[p - 1] = pieces[p];
    if (inputs.bias) {
      const char* row = reinterpret_cast<const char*>(inputs.bias);
      float bias[kPiece];
      widen(load_piece(row, EFT_FP32, piece_id(tile, j, lane), inputs.vocab_size), EFT_FP32, bias);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) tau[i] += bias[i];
    }
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      largest = fmaxf(largest, ordinary >> i & 1 ? tau[i] : -INFINITY);
    }
  }
  return warp_max(largest);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_SPECIAL_CUH_
