// A part's rows in its scratch memory, and which slots of a chunk their masks leave.
#ifndef EFT_CPU_ATTENTION_MASK_H_
#define EFT_CPU_ATTENTION_MASK_H_

#include <algorithm>

#include "common/dtype.h"
#include "cpu/attention_isa.h"

namespace eft {
namespace {

using attention::kChunk;

// Slots of a chunk that any row attends to; the others' keys may be read, their values are not.
struct Slots {
  int count = 0;
  uint8_t at[kChunk];
};

// Where a part's rows of floats lie. Row r is query r % num_queries of head r / num_queries.
struct Rows {
  int64_t count, dim, padded_dim;
  float *q, *sums, *scores, *biases, *most, *mass;
  bool shared_bias;  // by the heads

  Rows(const eft_attention& a, float* scratch)
      : count(attention::num_rows(a)),
        dim(a.head_dim),
        padded_dim(attention::padded(a.head_dim)),
        q(scratch),
        sums(q + count * padded_dim),
        scores(sums + count * padded_dim),
        biases(scores + count * kChunk),
        most(biases + count * kChunk),
        mass(most + count),
        shared_bias(!a.mask || !a.mask_strides[1]) {}
};

template <class T>
const T* at(const void* data, const int64_t* strides, int64_t batch, int64_t head, int64_t row) {
  return static_cast<const T*>(data) + batch * strides[0] + head * strides[1] + row * strides[2];
}

template <class M>
void widen_mask(const M* mask, int count, float* bias) {
#pragma omp simd
  for (int i = 0; i < count; ++i) bias[i] = to_float(mask[i]);
}
void widen_mask(const bool* mask, int count, float* bias) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(mask);
#pragma omp simd
  for (int i = 0; i < count; ++i) bias[i] = bytes[i] ? 0.0f : -INFINITY;
}

template <class M>
void read_mask(const eft_attention& a, int64_t b, int64_t first_head, int64_t first, int count,
               const Rows& rows) {
  const int64_t distinct = rows.shared_bias ? a.num_queries : rows.count;
  for (int64_t r = 0; r < distinct; ++r) {
    const int64_t head = first_head + r / a.num_queries, query = r % a.num_queries;
    float* bias = rows.biases + r * kChunk;
    widen_mask(at<M>(a.mask, a.mask_strides, b, head, query) + first, count, bias);
    std::fill(bias + count, bias + kChunk, -INFINITY);
  }
}

// Fills `biases`, and lists the slots that are not excluded for all rows.
void read_mask(const eft_attention& a, int64_t b, int64_t head, int64_t first, int count,
               const Rows& rows, Slots& slots) {
  slots.count = 0;
  if (!a.mask) {
    for (int64_t r = 0; r < a.num_queries; ++r) {
      std::fill_n(rows.biases + r * kChunk, count, 0.0f);
      std::fill(rows.biases + r * kChunk + count, rows.biases + (r + 1) * kChunk, -INFINITY);
    }
    for (int s = 0; s < count; ++s) slots.at[slots.count++] = uint8_t(s);
    return;
  }
  switch (a.mask_dtype) {
    case EFT_BF16: read_mask<Bf16>(a, b, head, first, count, rows); break;
    case EFT_FP16: read_mask<Fp16>(a, b, head, first, count, rows); break;
    case EFT_FP32: read_mask<float>(a, b, head, first, count, rows); break;
    default: read_mask<bool>(a, b, head, first, count, rows);
  }
  uint32_t attended[kChunk] = {};
  const int64_t distinct = rows.shared_bias ? a.num_queries : rows.count;
  for (int64_t r = 0; r < distinct; ++r) {
    const float* bias = rows.biases + r * kChunk;
#pragma omp simd
    for (int s = 0; s < kChunk; ++s) attended[s] |= bias[s] != -INFINITY;
  }
  for (int s = 0; s < kChunk; ++s) {
    slots.at[slots.count] = uint8_t(s);
    slots.count += int(attended[s]);
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_ATTENTION_MASK_H_
