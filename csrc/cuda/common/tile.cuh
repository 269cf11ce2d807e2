// A tile of 1024 tokens in the registers of one warp, 32 a lane: its maximum and its integer mass,
// final as soon as it has been read.
#ifndef EFT_CUDA_COMMON_TILE_CUH_
#define EFT_CUDA_COMMON_TILE_CUH_

#include "common/mass.h"
#include "cuda/common/mix.cuh"
#include "cuda/common/reduce.cuh"

namespace eft {
namespace {

// References whose distance to t is exact in fp32: all but those of rows with astronomical logits.
__device__ __forceinline__ bool has_exact_distance(float a) { return fabsf(a) < 0x1p20f; }

// Sum of token_mass(t, a) over a warp's 1024 tokens, in 15 operations each. Floor and
// truncation are additions that round down at a chosen bit: x + 1.5 * 2^(23 + e) leaves
// floor(x / 2^e) in the low bits. Conversion instructions have a quarter of that rate or less.
__device__ __forceinline__ uint64_t mass_by_rounding(const float* z, float c, float a) {
  const float low = a - 100.0f;         // 2^-60: no mass; also where t = -inf
  const float magic = 12582935.0f - a;  // 1.5 * 2^23 + 23 - a
  constexpr float kMagic3 = 0x1.8p26f;  // ends at 2^3
  constexpr float kMagic17 = 0x1.8p6f;  // ends at 2^-17
  uint32_t high = 0, rest = 0;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    const float t = fmaxf(z[i] * c, low);
    const float s = add_down(t, magic);  // floor(t) + magic
    const float p = exp2_fraction(t - (s - magic));
    // P * 2^(23 - d): the low bits of s are 23 - d, and are added to the exponent.
    const float w = __uint_as_float(__float_as_uint(p) + (__float_as_uint(s) << 23));
    const float h = add_down(w, kMagic3);
    const float r = add_down(w, kMagic3 + kMagic17 - h);  // (w - 8 floor(w / 8)) + magic
    high += __float_as_uint(h);
    rest += __float_as_uint(r);
  }
  high -= kGroup * 0x4cc00000u;  // the bits of the two magic numbers
  rest -= kGroup * 0x42c00000u;
  const uint32_t all_high = __reduce_add_sync(0xffffffffu, high);  // below 1024 * 2^21
  const uint32_t all_rest = __reduce_add_sync(0xffffffffu, rest);  // below 1024 * 2^20
  return (uint64_t(all_high) << 20) + all_rest;
}

// The same sum by token_mass, for rows of astronomical logits: from memory again, piece by piece.
template <bool kConservative>
__device__ __forceinline__ uint64_t mass_by_definition(const RowInputs& inputs, int tile, int lane,
                                                       float a) {
  uint64_t sum = 0;
#pragma unroll 1
  for (int j = 0; j < 4; ++j) {
    float z[kPiece];
    mix_pieces<1, kConservative>(inputs, piece_id(tile, j, lane), 0, z);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) sum += token_mass(z[i] * inputs.c, a);
  }
  return warp_add(sum);
}

struct TileSummary {
  float group_max;  // of this lane's tokens, z
  float max;        // of the tile; NaN where it makes its row invalid
  uint64_t mass;    // W_T; 0 where not asked for
};

template <bool kConservative>
__device__ __forceinline__ TileSummary summarise(const RowInputs& inputs, int tile, int lane,
                                                 const float* z, bool bad, bool masses) {
  TileSummary s;
  s.group_max = z[0];
#pragma unroll
  for (int i = 1; i < kGroup; ++i) s.group_max = fmaxf(s.group_max, z[i]);
  s.max = warp_max(s.group_max);
  s.mass = 0;
  if (__any_sync(0xffffffffu, bad)) {
    s.max = NAN;
    return s;
  }
  const float a = floorf(s.max * inputs.c);
  if (!masses || !(a > -INFINITY)) return s;
  s.mass = has_exact_distance(a) ? mass_by_rounding(z, inputs.c, a)
                                 : mass_by_definition<kConservative>(inputs, tile, lane, a);
  return s;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_TILE_CUH_
