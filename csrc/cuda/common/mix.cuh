// z of a row's tokens: the weighted sum of the models, bias and bitmask, excluded tokens as -inf.
// The same arithmetic as csrc/cpu/mix.h, operation by operation.
#ifndef EFT_CUDA_COMMON_MIX_CUH_
#define EFT_CUDA_COMMON_MIX_CUH_

#include "cuda/common/load.cuh"

namespace eft {
namespace {

struct Model {
  const char* x;  // its row
  float w;
  float lowest;  // excludes, as -inf does
  int dtype;
};

// One row's mixture, in shared memory. A bias is one more model, of weight 1, that excludes
// nothing: fma(1, b, z) is z + b.
struct Mixer {
  Model models[EFT_MAX_MODELS + 1];
  const int32_t* token_bitmask;  // the row's, or null
  int count;                     // models and bias
  int n;                         // vocab_size
  float c;                       // t = z * c
  float square_limit;            // a sum of squares up to this means that no token needs a test
  bool fast;                     // bf16 on 16-byte boundaries, and nothing but models
  bool conservative, drop;
  int defining;
  float delta, nucleus_t;
  uint32_t nucleus_id;
};

// The models, bias and bitmask of a row. `m` lies in shared memory: the number of models is not
// known to the compiler.
__device__ __forceinline__ void set_models(const Plan& plan, const RowOptions& o, int64_t row,
                                           int model, Mixer& m) {
  const eft_step& s = plan.step;
  const bool own = plan.stage == kOwnNuclei;
  m.n = int(s.vocab_size);
  m.c = plan.stage == kMixOnly ? 1.0f : o.scale;
  float sum = 1.0f;
  const int num_models = own ? 1 : s.num_models;
#pragma unroll 1
  for (int k = 0; k < num_models; ++k) {
    const eft_logits& logits = s.logits[own ? model : k];
    const int64_t size = logits.dtype == EFT_FP32 ? 4 : 2;
    const char* x = static_cast<const char*>(logits.data) + row * logits.row_stride * size;
    m.models[k] = {x, o.weights[k], lowest_of(logits.dtype), logits.dtype};
    sum += fabsf(o.weights[k]);
  }
  m.count = num_models;
  m.token_bitmask = nullptr;
  if (!own && s.bias) {
    const float* bias = s.bias + row * s.bias_row_stride;
    m.models[num_models] = {reinterpret_cast<const char*>(bias), 1.0f, NAN, EFT_FP32};
    m.count = num_models + 1;
  }
  if (!own && s.token_bitmask) m.token_bitmask = s.token_bitmask + row * s.token_bitmask_row_stride;
  // Magnitudes up to 2^126 / sum / c cannot overflow z or t; squares are held to 2^100, so a limit
  // of 2^60 or more will do.
  m.square_limit = 0x1p126f / sum / (m.c > 1.0f ? m.c : 1.0f) > 0x1p60f ? 0x1p100f : -1.0f;
  m.conservative = !own && s.conservative && o.conservative_top_p != kWhole;
}

__device__ __forceinline__ void set_nucleus(const eft_step& s, const RowOptions& o,
                                            const Nucleus& nucleus, Mixer& m) {
  const double shift = nucleus.log_normaliser[2] - nucleus.log_normaliser[0];
  m.delta = float(double(o.weights[0]) * shift);
  m.nucleus_t = nucleus.t;
  m.nucleus_id = nucleus.id;
  m.defining = s.conservative - 1;
  m.drop = s.conservative_drop != 0;
}

// A bias is fp32.
__device__ __forceinline__ bool is_fast(const Mixer& m) {
  bool fast = !m.token_bitmask && !m.conservative;
#pragma unroll 1
  for (int k = 0; k < m.count; ++k) {
    fast &= m.models[k].dtype == EFT_BF16 && (reinterpret_cast<uintptr_t>(m.models[k].x) & 15) == 0;
  }
  return fast;
}

__device__ __forceinline__ void set_mixer(const Plan& plan, const RowOptions& o, int64_t row,
                                          int model, Mixer& m) {
  set_models(plan, o, row, model, m);
  if (m.conservative) set_nucleus(plan.step, o, plan.workspace.nuclei[row - plan.first_row], m);
  m.fast = is_fast(m);
}

// kPieces times 8 tokens, from `id` on and every `stride` further. True if a token that is not
// excluded has NaN or +inf.
template <int kPieces, bool kConservative>
__device__ __forceinline__ bool mix_pieces(const Mixer& m, int id, int stride, float* z) {
  float tuned[kConservative ? kPieces * kPiece : 1];
  uint32_t excluded = 0, inside = 0;  // bit j * 8 + i
  const float c = m.c;
#pragma unroll
  for (int i = 0; i < kPieces * kPiece; ++i) z[i] = -0.0f;  // adds nothing, not even a sign
#pragma unroll 1
  for (int k = 0; k < m.count; ++k) {
    const Model model = m.models[k];
    Piece pieces[kPieces];
#pragma unroll
    for (int j = 0; j < kPieces; ++j) {
      pieces[j] = load_piece(model.x, model.dtype, id + j * stride, m.n);
    }
#pragma unroll
    for (int j = 0; j < kPieces; ++j) {
      float v[kPiece];
      widen(pieces[j], model.dtype, v);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        const int at = j * kPiece + i;
        z[at] = fmaf(model.w, v[i], z[at]);
        excluded |= uint32_t(v[i] <= model.lowest) << at;
        if (kConservative && m.conservative) {
          // Inside the nucleus all models and delta; outside the tuned model alone.
          if (k == m.defining) {
            const float own = v[i] * float(kLog2E);
            const bool in = own > m.nucleus_t ||
                            (own == m.nucleus_t && uint32_t(id + j * stride + i) <= m.nucleus_id);
            inside |= uint32_t(in) << at;
          }
          if (k == 1) tuned[at] = v[i];
        }
      }
    }
    if (kConservative && m.conservative && k == 2) {
#pragma unroll
      for (int i = 0; i < kPieces * kPiece; ++i) {
        z[i] = inside >> i & 1 ? z[i] + m.delta : tuned[i];
      }
      if (m.drop) excluded |= ~inside;
    }
  }
  if (m.token_bitmask) {
#pragma unroll
    for (int j = 0; j < kPieces; ++j) {
      const int first = id + j * stride;
      if (first >= m.n) continue;
      const uint32_t word = uint32_t(__ldg(m.token_bitmask + first / 32));
      excluded |= (~(word >> first % 32) & 0xffu) << j * kPiece;
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

// Token ids of piece j of the group that `lane` holds: 8 from here on.
__device__ __forceinline__ int piece_id(int tile, int j, int lane) {
  return tile * kTile + j * (kTile / 4) + lane * kPiece;
}

// 8 tokens of K bf16 models; where they are not tested none is excluded.
template <int K, bool kTested>
__device__ __forceinline__ bool mix_bf16(const Mixer& m, const Bits128* raw, float* z) {
  uint32_t excluded = 0;
  const float c = m.c;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const float w = m.models[k].w;
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

// Pieces of a lane's 32 tokens of K bf16 models, all loads first.
template <int K, int kPieces>
__device__ __forceinline__ void load_fast(const Mixer& m, int id, Bits128 (*raw)[K]) {
#pragma unroll
  for (int j = 0; j < kPieces; ++j) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      raw[j][k] = load_once(m.models[k].x + 2 * int64_t(id + j * (kTile / 4)));
    }
  }
}

// By one lane alone; in two halves, since its caller has little room.
template <int K>
__device__ __forceinline__ void mix_fast_group(const Mixer& m, int tile, int lane, float* z) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Bits128 raw[2][K];
    load_fast<K, 2>(m, piece_id(tile, 2 * half, lane), raw);
#pragma unroll
    for (int j = 0; j < 2; ++j) mix_bf16<K, true>(m, raw[j], z + (2 * half + j) * kPiece);
  }
}

// A warp's whole tile of K bf16 models, 32 tokens a lane.
template <int K>
__device__ __forceinline__ bool mix_fast_tile(const Mixer& m, int tile, int lane, float* z) {
  Bits128 raw[4][K];
  load_fast<K, 4>(m, piece_id(tile, 0, lane), raw);
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
  if (__all_sync(0xffffffffu, largest <= m.square_limit)) {
#pragma unroll
    for (int j = 0; j < 4; ++j) mix_bf16<K, false>(m, raw[j], z + j * kPiece);
    return false;
  }
  bool bad = false;
#pragma unroll
  for (int j = 0; j < 4; ++j) bad |= mix_bf16<K, true>(m, raw[j], z + j * kPiece);
  return bad;
}

// A warp's tile. kFast is the number of bf16 models that the kernel was made for; 0: any models.
template <int kFast, bool kConservative>
__device__ __forceinline__ bool mix_tile(const Mixer& m, int tile, int lane, float* z) {
  if constexpr (kFast > 0) {
    if (m.fast && (tile + 1) * kTile <= m.n) return mix_fast_tile<kFast>(m, tile, lane, z);
  }
  return mix_pieces<4, kConservative>(m, piece_id(tile, 0, lane), kTile / 4, z);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_MIX_CUH_
