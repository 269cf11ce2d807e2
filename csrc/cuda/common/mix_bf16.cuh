// z of rows of bf16 models alone, on 16-byte boundaries: the usual inputs. All loads before any
// use.
#ifndef EFT_CUDA_COMMON_MIX_BF16_CUH_
#define EFT_CUDA_COMMON_MIX_BF16_CUH_

#include "cuda/common/load.cuh"
#include "cuda/common/row_inputs.cuh"

namespace eft {
namespace {

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

// The 8 tokens in which a row ends, and past it -inf. Token by token, from the last on, each pushed
// in at the front: one piece of a row, so short, not fast.
template <int K>
__device__ __forceinline__ bool mix_bf16_end(const RowInputs& inputs, int id, float* z) {
  bool bad = false;
#pragma unroll 1
  for (int i = kPiece - 1; i >= 0; --i) {
    float own = -INFINITY;
    if (id + i < inputs.vocab_size) {
      bool out = false;
      own = -0.0f;  // adds nothing, not even a sign
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const Model& model = inputs.models[k];
        const float v = bf16_low(__ldg(reinterpret_cast<const uint16_t*>(model.logits) + id + i));
        own = fmaf(model.weight, v, own);
        out |= v <= Lowest<Bf16>::value;
      }
      bad |= !out && !(own * inputs.c < INFINITY);
      own = out ? -INFINITY : own;
    }
#pragma unroll
    for (int j = kPiece - 1; j > 0; --j) z[j] = z[j - 1];
    z[0] = own;
  }
  return bad;
}

// 8 tokens of K bf16 models from `id` on; past the end of the row -inf. In two halves, so that the
// loads of several pieces can be in flight: load_bf16_piece, then mix_bf16_piece.
template <int K>
__device__ __forceinline__ void load_bf16_piece(const RowInputs& inputs, int id,
                                                Bits128 (&raw)[1][K]) {
  if (id + kPiece <= inputs.vocab_size) load_bf16<K, 1>(inputs, id, raw);
}
template <int K>
__device__ __forceinline__ void mix_bf16_piece(const RowInputs& inputs, int id,
                                               Bits128 (&raw)[1][K], float* z) {
  if (id + kPiece > inputs.vocab_size) {
    mix_bf16_end<K>(inputs, id, z);
  } else {
    mix_bf16<K, true>(inputs, raw[0], z);
  }
}

// 8 tokens of as many bf16 models as the row has.
__device__ __forceinline__ void mix_few_bf16(const RowInputs& inputs, int id, float* z) {
  Bits128 raw[EFT_MAX_MODELS] = {};
  {
    [[maybe_unused]] const OneRoundTrip together;
#pragma unroll
    for (int k = 0; k < EFT_MAX_MODELS; ++k) {
      if (k < inputs.num_terms) raw[k] = load_once(inputs.models[k].logits + 2 * int64_t(id));
    }
  }
  uint32_t excluded = 0;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) z[i] = -0.0f;  // adds nothing, not even a sign
#pragma unroll
  for (int k = 0; k < EFT_MAX_MODELS; ++k) {
    if (k >= inputs.num_terms) continue;
    const float w = inputs.models[k].weight;
    float v[kPiece];
    widen_bf16(raw[k].x, v);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      z[i] = fmaf(w, v[i], z[i]);
      excluded |= uint32_t(v[i] <= Lowest<Bf16>::value) << i;
    }
  }
#pragma unroll
  for (int i = 0; i < kPiece; ++i) z[i] = excluded >> i & 1 ? -INFINITY : z[i];
}

// The loads of a tile that the row ends in; behind its end -inf. There the row's first tokens are
// read: a condition would put waits between the loads.
template <int K>
__device__ __forceinline__ void load_bf16_end_tile(const RowInputs& inputs, int id,
                                                   Bits128 (&raw)[4][K]) {
  constexpr Bits128 kMinusInf = {{0xff80ff80u, 0xff80ff80u, 0xff80ff80u, 0xff80ff80u}};
  [[maybe_unused]] const OneRoundTrip together;
  if (inputs.vocab_size >= kPiece) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int at = id + j * (kTile / 4);
      const int from = at + kPiece <= inputs.vocab_size ? at : 0;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        raw[j][k] = load_once(inputs.models[k].logits + 2 * int64_t(from));
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (id + j * (kTile / 4) + kPiece <= inputs.vocab_size) continue;
#pragma unroll
    for (int k = 0; k < K; ++k) raw[j][k] = kMinusInf;
  }
}

template <int K>
__device__ __forceinline__ bool mix_bf16_end_tile(const RowInputs& inputs, int id, float* z) {
  Bits128 raw[4][K] = {};
  load_bf16_end_tile<K>(inputs, id, raw);
  bool bad = false;
#pragma unroll
  for (int j = 0; j < 4; ++j) bad |= mix_bf16<K, true>(inputs, raw[j], z + j * kPiece);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int at = id + j * (kTile / 4);
    if (at < inputs.vocab_size && at + kPiece > inputs.vocab_size) {
      bad |= mix_bf16_end<K>(inputs, at, z + j * kPiece);
    }
  }
  return bad;
}

// A warp's whole tile of K bf16 models, 32 tokens a lane.
template <int K>
__device__ __forceinline__ bool mix_bf16_tile(const RowInputs& inputs, int id, float* z) {
  Bits128 raw[4][K];
  load_bf16<K, 4>(inputs, id, raw);
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

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_MIX_BF16_CUH_
