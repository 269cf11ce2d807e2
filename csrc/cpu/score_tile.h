// One tile of one distribution: its own logits as fp32, its maximum, and the sums that every
// statistic is made of. Tokens at the tile's maximum are counted and not summed, so that the rest
// beside a probability near 1 keeps all its digits.
#ifndef EFT_CPU_SCORE_TILE_H_
#define EFT_CPU_SCORE_TILE_H_

#include "cpu/mix.h"

namespace eft {
namespace {

constexpr int kStride = 64;  // tiles are padded with -inf to whole strides: four vectors of 16
constexpr float kUnderflow = -87.0f;

inline int padded_tile(int n) { return (n + kStride - 1) / kStride * kStride; }

inline float masked(float x, uint32_t mask) {
  return bit_cast<float>(bit_cast<uint32_t>(x) & mask);
}

// d, or kUnderflow where it is below (and for -inf).
inline __attribute__((always_inline)) float clamped(float d) {
  return d > kUnderflow ? d : kUnderflow;
}

// exp(x) for a clamped x <= 0, relative error below 2e-7; 0 at kUnderflow. log2(e) is in two parts
// because the product's rounding alone would cost 1e-6 at x = -20.
inline __attribute__((always_inline)) float exp_clamped(float x) {
  const uint32_t live = 0u - uint32_t(x > kUnderflow);
  const float n = floorf(x * 0x1.715476p0f);
  const float f = fmaf(x, 0x1.4ae0cp-26f, fmaf(x, 0x1.715476p0f, -n));
  return masked(exp2_fraction(f) * bit_cast<float>((int32_t(n) + 127) << 23), live);
}

template <class T>
void own_logits(const T* x, int n, float lowest, float* out) {
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const float v = to_float(x[i]);
    const uint32_t out_of_it = 0u - (uint32_t(v <= lowest) | uint32_t(!(v < INFINITY)));
    out[i] = bit_cast<float>((bit_cast<uint32_t>(v) & ~out_of_it) | (0xff800000u & out_of_it));
  }
}

// One model's tile as fp32, -inf where the model itself excludes a token, and where it has NaN or
// +inf: in a row whose mixture is valid something else excludes those.
inline void own_tile(const eft_logits& logits, int64_t row, int64_t first, int n, float* out) {
  const float lowest = lowest_of(logits.dtype);
  if (logits.dtype == EFT_BF16) {
    own_logits(logits_at<Bf16>(logits, row, first), n, lowest, out);
  } else if (logits.dtype == EFT_FP32) {
    own_logits(logits_at<float>(logits, row, first), n, lowest, out);
  } else {
    load_as_fp32(logits, row, first, n, out);
    own_logits(out, n, lowest, out);
  }
  std::fill(out + n, out + padded_tile(n), -INFINITY);
}

inline float tile_max(const float* x, int n) {
  float lane[kStride];
  for (int l = 0; l < kStride; ++l) lane[l] = -INFINITY;
  for (int i = 0; i < n; i += kStride) {
#pragma omp simd
    for (int l = 0; l < kStride; ++l) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
  }
  for (int width = kStride / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] = lane[l] > lane[l + width] ? lane[l] : lane[l + width];
  }
  return lane[0];
}

// Sums are kept for 16 interleaved groups of a tile and added in double: chains of 64 fp32
// additions at most, no reduction across lanes, and the same bits from every instruction set.
template <class T>
double add_lanes(const T* lanes) {
  double sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += double(lanes[l]);
  return sum;
}

// Sums with e = exp(x - top) over the tokens below `top`, and the number of tokens at it.
struct TileSums {
  double lower, weighted, squares;  // sum e, e (x - top), e^2
  int maxima;
};

// Never inlined: within the callers' loops GCC does not vectorise this one.
__attribute__((noinline)) TileSums sum_tile(const float* x, int n, float top) {
  float lower[kLanes] = {}, weighted[kLanes] = {}, squares[kLanes] = {};
  int32_t maxima[kLanes] = {};
  for (int start = 0; start < n; start += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      const float d = x[start + lane] - top, below = clamped(d);
      const uint32_t is_top = uint32_t(d == 0.0f);
      const float e = masked(exp_clamped(below), is_top - 1u);
      lower[lane] += e;
      weighted[lane] += e * below;
      squares[lane] += e * e;
      maxima[lane] += int32_t(is_top);
    }
  }
  return {add_lanes(lower), add_lanes(weighted), add_lanes(squares), int(add_lanes(maxima))};
}

// The number of a tile's tokens that rank before one with logit `target`: those above it, and its
// equals among the first `ties` tokens.
inline int64_t count_before(const float* x, int n, float target, int ties) {
  int32_t count = 0;
#pragma omp simd reduction(+ : count)
  for (int i = 0; i < n; ++i) {
    count += int32_t(x[i] > target) | (int32_t(x[i] == target) & int32_t(i < ties));
  }
  return count;
}

// Two distributions as p = exp(x - max) * scale.
struct ComparedPair {
  float max_p, max_q, scale_p, scale_q;
  float log_scales;  // log scale_p - log scale_q
};

struct TileDistance {
  double absolute, divergence;  // sum |p - q|, sum p log(p / q) - p + q
};

// Also writes p - q and q - p.
__attribute__((noinline)) TileDistance compare_tile(const float* p, const float* q, int n,
                                                    const ComparedPair& pair, float* gain,
                                                    float* loss) {
  const ComparedPair of = pair;
  float absolute[kLanes] = {}, divergence[kLanes] = {};
  for (int start = 0; start < n; start += kLanes) {
#pragma omp simd
    for (int lane = 0; lane < kLanes; ++lane) {
      // Distances from the maxima are exact near them, where the mass is.
      const float dp = p[start + lane] - of.max_p, dq = q[start + lane] - of.max_q;
      const float a = exp_clamped(clamped(dp)) * of.scale_p;
      const float b = exp_clamped(clamped(dq)) * of.scale_q;
      const float ratio = (dp - dq) + of.log_scales;  // NaN where both are excluded
      gain[start + lane] = a - b;
      loss[start + lane] = b - a;
      absolute[lane] += fabsf(a - b);
      divergence[lane] += a * masked(ratio, 0u - uint32_t(a > 0.0f)) - (a - b);
    }
  }
  return {add_lanes(absolute), add_lanes(divergence)};
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SCORE_TILE_H_
