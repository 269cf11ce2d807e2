// z of a row's tokens (numerics.md §1): the weighted sum of models and bias, -inf where a
// model or the bitmask excludes. The same arithmetic as csrc/cpu/mix.h, operation by operation.
#ifndef EFT_CUDA_COMMON_MIX_CUH_
#define EFT_CUDA_COMMON_MIX_CUH_

#include "cuda/common/bitmask.cuh"
#include "cuda/common/load.cuh"
#include "cuda/common/mix_bf16.cuh"
#include "cuda/common/row_inputs.cuh"
#include "cuda/common/special.cuh"

namespace eft {
namespace {

// kPieces times 8 tokens, from `id` on and every `stride` further, special ones like all others.
// True if a token that is not excluded has NaN or +inf.
template <int kPieces, bool kConservative>
__device__ __forceinline__ bool mix_ordinary(const RowInputs& inputs, int id, int stride,
                                             float* z) {
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

template <int kPieces, bool kConservative>
__device__ __forceinline__ bool mix_pieces(const RowInputs& inputs, int id, int stride, float* z) {
  const bool bad = mix_ordinary<kPieces, kConservative>(inputs, id, stride, z);
  return set_special<kPieces>(inputs, id, stride, z, bad);
}

// 8 tokens of any models, without a stride: of bf16 ones with all loads at once.
template <bool kConservative>
__device__ __forceinline__ void mix_any_piece(const RowInputs& inputs, int id, float* z) {
  if (inputs.all_bf16 && id + kPiece <= inputs.vocab_size) {
    mix_few_bf16(inputs, id, z);
  } else {
    mix_ordinary<1, kConservative>(inputs, id, 0, z);
  }
  set_special<1>(inputs, id, 0, z, false);
}

// A warp's tile, special tokens like all others. kNumBf16Models as for the kernel: every row is on
// a 16-byte boundary, without bias or bitmask; 0: any models.
template <int kNumBf16Models, bool kConservative>
__device__ __forceinline__ bool mix_tile(const RowInputs& inputs, int tile, int lane, float* z) {
  if constexpr (kNumBf16Models > 0) {
    const int id = piece_id(tile, 0, lane);
    return (tile + 1) * kTile <= inputs.vocab_size
               ? mix_bf16_tile<kNumBf16Models>(inputs, id, z)
               : mix_bf16_end_tile<kNumBf16Models>(inputs, id, z);
  } else {
    return mix_ordinary<4, kConservative>(inputs, piece_id(tile, 0, lane), kTile / 4, z);
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_MIX_CUH_
