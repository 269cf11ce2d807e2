// z of a row's tokens (docs/numerics.md §1): the weighted sum of models and bias, -inf where a
// model or the bitmask excludes. The same arithmetic as csrc/cpu/mix.h, operation by operation.
#ifndef EFT_CUDA_COMMON_MIX_CUH_
#define EFT_CUDA_COMMON_MIX_CUH_

#include "cuda/common/bitmask.cuh"
#include "cuda/common/load.cuh"
#include "cuda/common/row_inputs.cuh"

namespace eft {
namespace {

// kPieces times 8 tokens, from `id` on and every `stride` further. True if a token that is not
// excluded has NaN or +inf.
template <int kPieces, bool kConservative>
__device__ __forceinline__ bool mix_pieces(const RowInputs& inputs, int id, int stride, float* z) {
  float tuned[kConservative ? kPieces * kPiece : 1];
  uint32_t excluded = 0, inside = 0;  // bit j * 8 + i
  const float c = inputs.c;
#pragma unroll
  for (int i = 0; i < kPieces * kPiece; ++i) z[i] = -0.0f;  // adds nothing, not even a sign
#pragma unroll 1
  for (int k = 0; k < inputs.num_terms; ++k) {
    const Model model = inputs.models[k];
    Piece pieces[kPieces];
    {
      [[maybe_unused]] const OneRoundTrip together;
#pragma unroll
      for (int j = 0; j < kPieces; ++j) {
        pieces[j] = load_piece(model.logits, model.dtype, id + j * stride, inputs.vocab_size);
      }
    }
#pragma unroll
    for (int j = 0; j < kPieces; ++j) {
      float v[kPiece];
      widen(pieces[j], model.dtype, v);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        const int at = j * kPiece + i;
        z[at] = fmaf(model.weight, v[i], z[at]);
        excluded |= uint32_t(v[i] <= model.lowest) << at;
        if (kConservative && inputs.conservative) {
          // Inside the nucleus all models and delta; outside the tuned model alone.
          if (k == inputs.defining) {
            const float own_t = v[i] * float(kLog2E);
            const bool in =
                own_t > inputs.nucleus_t ||
                (own_t == inputs.nucleus_t && uint32_t(id + j * stride + i) <= inputs.nucleus_id);
            inside |= uint32_t(in) << at;
          }
          if (k == 1) tuned[at] = v[i];
        }
      }
    }
    if (kConservative && inputs.conservative && k == 2) {
#pragma unroll
      for (int i = 0; i < kPieces * kPiece; ++i) {
        z[i] = inside >> i & 1 ? z[i] + inputs.delta : tuned[i];
      }
      if (inputs.drop) excluded |= ~inside;
    }
  }
  if (inputs.token_bitmask) {
#pragma unroll
    for (int j = 0; j < kPieces; ++j) {
      const int first = id + j * stride;
      if (first >= inputs.vocab_size) continue;
      excluded |= (~load_bitmask(inputs, first) & 0xffu) << j * kPiece;
    }
  }
  bool bad = false;
#pragma unroll
  for (int i = 0; i < kPieces * kPiece; ++i) {
    const bool out = excluded >> i & 1;
    bad |= !out && !(z[i] * c < INFINITY);
    z[i] = out ? -INFINITY : z[i];
  }
  return bad;
}

// 8 tokens of K bf16 models. Without kTested none of them is excluded or overflows.
template <int K, bool kTested>
__device__ __forceinline__ bool mix_bf16(const RowInputs& inputs, const Bits128* raw, float* z) {
  uint32_t excluded = 0;
  const float c = inputs.c;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const float w = inputs.models[k].weight;
    float v[kPiece];
    widen_bf16(raw[k].x, v);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      z[i] = k == 0 ? w * v[i] : fmaf(w, v[i], z[i]);
      if (kTested) excluded |= uint32_t(v[i] <= Lowest<Bf16>::value) << i;
    }
  }
  if (!kTested) return false;
  bool bad = false;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    const bool out = excluded >> i & 1;
    bad |= !out && !(z[i] * c < INFINITY);
    z[i] = out ? -INFINITY : z[i];
  }
  return bad;
}

// Pieces of a lane's 32 tokens of K bf16 models, all loads before any use.
template <int K, int kPieces>
__device__ __forceinline__ void load_bf16(const RowInputs& inputs, int id, Bits128 (*raw)[K]) {
  [[maybe_unused]] const OneRoundTrip together;
#pragma unroll
  for (int j = 0; j < kPieces; ++j) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      raw[j][k] = load_once(inputs.models[k].logits + 2 * int64_t(id + j * (kTile / 4)));
    }
  }
}

// A group of 32 tokens by one thread, in two halves, since its caller has few registers left.
template <int K>
__device__ __forceinline__ void mix_bf16_group(const RowInputs& inputs, int tile, int lane,
                                               float* z) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Bits128 raw[2][K];
    load_bf16<K, 2>(inputs, piece_id(tile, 2 * half, lane), raw);
#pragma unroll
    for (int j = 0; j < 2; ++j) mix_bf16<K, true>(inputs, raw[j], z + (2 * half + j) * kPiece);
  }
}

// A warp's whole tile of K bf16 models, 32 tokens a lane.
template <int K>
__device__ __forceinline__ bool mix_bf16_tile(const RowInputs& inputs, int tile, int lane,
                                              float* z) {
  Bits128 raw[4][K];
  load_bf16<K, 4>(inputs, piece_id(tile, 0, lane), raw);
  float largest = 0.0f;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint32_t squares = 0;
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) squares = add_squares(squares, raw[j][k].x[i]);
    }
    largest += bf16_low(squares) + bf16_high(squares);  // infinity and NaN stay
  }
  // In an ordinary tile no token can be excluded and no z or t can overflow.
  if (__all_sync(0xffffffffu, largest <= inputs.square_limit)) {
#pragma unroll
    for (int j = 0; j < 4; ++j) mix_bf16<K, false>(inputs, raw[j], z + j * kPiece);
    return false;
  }
  bool bad = false;
#pragma unroll
  for (int j = 0; j < 4; ++j) bad |= mix_bf16<K, true>(inputs, raw[j], z + j * kPiece);
  return bad;
}

// A warp's tile. kNumBf16Models as for the kernel; 0: any models.
template <int kNumBf16Models, bool kConservative>
__device__ __forceinline__ bool mix_tile(const RowInputs& inputs, int tile, int lane, float* z) {
  if constexpr (kNumBf16Models > 0) {
    if (inputs.all_bf16 && (tile + 1) * kTile <= inputs.vocab_size)
      return mix_bf16_tile<kNumBf16Models>(inputs, tile, lane, z);
  }
  return mix_pieces<4, kConservative>(inputs, piece_id(tile, 0, lane), kTile / 4, z);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_MIX_CUH_
