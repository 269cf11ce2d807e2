// Loads 8 consecutive tokens of one model, at any alignment, and never a byte outside of the row.
#ifndef EFT_CUDA_COMMON_LOAD_CUH_
#define EFT_CUDA_COMMON_LOAD_CUH_

#include "cuda/common/device.cuh"
#include "cuda/common/tile_layout.cuh"
#include "eft.h"

namespace eft {
namespace {

struct Piece {
  uint32_t x[kPiece];  // 16-bit dtypes fill the first half
};

__device__ __forceinline__ float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

__device__ __forceinline__ void widen_bf16(const uint32_t* x, float* v) {
#pragma unroll
  for (int i = 0; i < kPiece / 2; ++i) {
    v[2 * i] = bf16_low(x[i]);
    v[2 * i + 1] = bf16_high(x[i]);
  }
}

__device__ __forceinline__ void widen(const Piece& piece, int dtype, float* v) {
  if (dtype == EFT_BF16) return widen_bf16(piece.x, v);
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    v[i] = dtype == EFT_FP32 ? __uint_as_float(piece.x[i])
                             : half_to_float(uint16_t(piece.x[i / 2] >> (i % 2 * 16)));
  }
}

// w[i] = w[i + kBy] where `shifts`, for all but the last kBy of kCount.
template <int kBy, int kCount>
__device__ __forceinline__ void shift_words(bool shifts, uint32_t* w) {
#pragma unroll
  for (int i = 0; i < kCount - kBy; ++i) w[i] = shifts ? w[i + kBy] : w[i];
}

// 4 * kWords bytes from byte `skip` < 16 on. Whole words first, by halving, so that no index is
// dynamic.
template <int kWords>
__device__ __forceinline__ void realign(uint32_t* w, uint32_t skip, uint32_t* out) {
  shift_words<2, kWords + 4>(skip & 8, w);
  shift_words<1, kWords + 2>(skip & 4, w);
  const uint32_t bits = skip % 4 * 8;
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    out[i] = uint32_t((uint64_t(w[i + 1]) << 32 | w[i]) >> bits);
  }
}

template <int kWords>
__device__ __forceinline__ void load_inside(const char* from, uint32_t skip, uint32_t* out) {
  if (skip == 0) {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      const Bits128 b = load_once(from + 4 * i);
#pragma unroll
      for (int j = 0; j < 4; ++j) out[i + j] = b.x[j];
    }
    return;
  }
  [[maybe_unused]] const OneRoundTrip together;
  uint32_t w[kWords + 4];
#pragma unroll
  for (int i = 0; i < kWords + 4; i += 4) {
    const Bits128 b = load_cached(from - skip + 4 * i);
#pragma unroll
    for (int j = 0; j < 4; ++j) w[i + j] = b.x[j];
  }
  realign<kWords>(w, skip, out);
}

// Tokens id..id + 7 of a row of n; past its end -inf. Token by token, from the last on, each pushed
// in at the front: rare, so short, not fast. `Bits` is as wide as the dtype.
template <class Bits>
__device__ __forceinline__ void load_end(const Bits* row, int id, int n, Bits past, uint32_t* out) {
  constexpr int kSize = sizeof(Bits), kWords = kPiece * kSize / 4;
  [[maybe_unused]] const OneRoundTrip together;
#pragma unroll
  for (int i = 0; i < kWords; ++i) out[i] = 0;
#pragma unroll 1
  for (int i = kPiece - 1; i >= 0; --i) {
    const uint32_t bits = id + i < n ? uint32_t(__ldg(row + id + i)) : uint32_t(past);
#pragma unroll
    for (int j = kWords - 1; j >= 0; --j) {
      const uint32_t before = j ? out[j - 1] : 0;
      out[j] = kSize == 4 ? before : out[j] << 16 | before >> 16;
    }
    out[0] |= bits;
  }
}

// The same at any alignment, by 16-byte words where all of them lie inside the row.
template <class Bits>
__device__ __forceinline__ void load_tokens(const char* row, int id, int n, Bits past,
                                            uint32_t* out) {
  constexpr int kSize = sizeof(Bits);
  constexpr int kWords = kPiece * kSize / 4;
  const char* from = row + int64_t(id) * kSize;
  const uint32_t skip = uint32_t(reinterpret_cast<uintptr_t>(from) & 15);
  const bool inside = skip == 0
                          ? id + kPiece <= n
                          : int64_t(id) * kSize >= skip &&
                                int64_t(id) * kSize - skip + 4 * kWords + 16 <= int64_t(n) * kSize;
  if (inside) return load_inside<kWords>(from, skip, out);
  load_end(reinterpret_cast<const Bits*>(row), id, n, past, out);
}

__device__ __forceinline__ Piece load_piece(const char* row, int dtype, int id, int n) {
  Piece piece;
  if (dtype == EFT_FP32) {
    load_tokens<uint32_t>(row, id, n, 0xff800000u, piece.x);
  } else {
    const uint16_t past = dtype == EFT_BF16 ? 0xff80u : 0xfc00u;
    load_tokens<uint16_t>(row, id, n, past, piece.x);
  }
  return piece;
}

// One token.
__device__ __forceinline__ float load_token(const char* row, int dtype, int id) {
  if (dtype == EFT_FP32) return __ldg(reinterpret_cast<const float*>(row) + id);
  const uint16_t bits = __ldg(reinterpret_cast<const uint16_t*>(row) + id);
  return dtype == EFT_FP16 ? half_to_float(bits) : bf16_low(bits);
}

// A model's own logit: -inf where the model excludes. In a row whose mixture is valid a token with
// NaN or +inf is excluded, by another model or the bitmask, or special: it is left out here too.
__device__ __forceinline__ float model_logit(float x, float lowest) {
  return x <= lowest || !(x < INFINITY) ? -INFINITY : x;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_LOAD_CUH_
