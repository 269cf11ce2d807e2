// The sums of products of attention: queries with keys, weights with values.
#ifndef EFT_CPU_ATTENTION_SUMS_H_
#define EFT_CPU_ATTENTION_SUMS_H_

#include <algorithm>
#include <type_traits>

#include "cpu/attention_mask.h"
#include "cpu/attention_vector.h"

namespace eft {
namespace {

// Registers stay registers where loops over them are written out, which not every level of
// optimisation does. Three rows by four, three operands and one more are AVX2's sixteen.
#define EFT_UNROLL _Pragma("GCC unroll 8")

// Scores of Q rows against four slots: one sum of products for each.
template <int Q, class T>
void dot(const float* q, int64_t padded_dim, const T* const k[4], int dim, float* scores) {
  Vector sums[Q][4];
  EFT_UNROLL
  for (int i = 0; i < Q; ++i) {
    EFT_UNROLL
    for (int j = 0; j < 4; ++j) sums[i][j] = splat(0.0f);
  }
  const auto add = [&](int d, const auto& loaded) {
    Vector query[Q];
    EFT_UNROLL
    for (int i = 0; i < Q; ++i) query[i] = load(q + i * padded_dim + d);
    EFT_UNROLL
    for (int j = 0; j < 4; ++j) {
      const Vector key = loaded(k[j] + d);
      EFT_UNROLL
      for (int i = 0; i < Q; ++i) sums[i][j] = multiply_add(query[i], key, sums[i][j]);
    }
  };
  int d = 0;
  for (; d + kWidth <= dim; d += kWidth) add(d, [](const T* x) { return load(x); });
  if (d < dim) add(d, [&](const T* x) { return load_first(x, dim - d); });
  EFT_UNROLL
  for (int i = 0; i < Q; ++i) {
    const Four four = sum_lanes(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
    memcpy(scores + i * kChunk, &four, sizeof(four));
  }
}

// Adds `Q` rows' weighted values of some slots to N registers of their sums.
template <int Q, int N, class Load>
void weigh(const float* weights, const uint8_t* slots, int count, float* sums, int64_t padded_dim,
           const Load& values) {
  Vector total[Q][N];
  EFT_UNROLL
  for (int i = 0; i < Q; ++i) {
    EFT_UNROLL
    for (int j = 0; j < N; ++j) total[i][j] = load(sums + i * padded_dim + j * kWidth);
  }
  for (int s = 0; s < count; ++s) {
    Vector weight[Q];
    EFT_UNROLL
    for (int i = 0; i < Q; ++i) weight[i] = splat(weights[i * kChunk + slots[s]]);
    EFT_UNROLL
    for (int j = 0; j < N; ++j) {
      const Vector value = values(slots[s], j * kWidth);
      EFT_UNROLL
      for (int i = 0; i < Q; ++i) total[i][j] = multiply_add(weight[i], value, total[i][j]);
    }
  }
  EFT_UNROLL
  for (int i = 0; i < Q; ++i) {
    EFT_UNROLL
    for (int j = 0; j < N; ++j) store(sums + i * padded_dim + j * kWidth, total[i][j]);
  }
}

template <int Q, class T>
void weigh_all(const float* weights, const uint8_t* slots, int count, float* sums,
               int64_t padded_dim, const T* v, int64_t stride, int dim) {
  int d = 0;
  const auto take = [&](auto registers) {
    constexpr int n = decltype(registers)::value;
    for (; d + n * kWidth <= dim; d += n * kWidth) {
      weigh<Q, n>(weights, slots, count, sums + d, padded_dim,
                  [&](int slot, int offset) { return load(v + slot * stride + d + offset); });
    }
  };
  if (Q == 1) take(std::integral_constant<int, 8>());
  take(std::integral_constant<int, 4>());
  take(std::integral_constant<int, 1>());
  if (d < dim) {
    weigh<Q, 1>(weights, slots, count, sums + d, padded_dim,
                [&](int slot, int) { return load_first(v + slot * stride + d, dim - d); });
  }
}

// Heads lie apart, so the processor does not foresee which addresses follow.
template <class T>
void prefetch(const T* data, int64_t stride, const Slots& slots, int from, int to, int dim) {
  for (int i = from; i < std::min(to, slots.count); ++i) {
    const char* row = reinterpret_cast<const char*>(data + slots.at[i] * stride);
    for (int64_t byte = 0; byte < dim * int64_t(sizeof(T)); byte += 64) {
      __builtin_prefetch(row + byte);
    }
  }
}

// Calls work(first row, number of rows as a constant) for rows three at a time.
template <class Work>
void by_threes(int64_t rows, const Work& work) {
  int64_t row = 0;
  for (; row + 3 <= rows; row += 3) work(row, std::integral_constant<int, 3>());
  if (rows - row == 2) work(row, std::integral_constant<int, 2>());
  if (rows - row == 1) work(row, std::integral_constant<int, 1>());
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_ATTENTION_SUMS_H_
