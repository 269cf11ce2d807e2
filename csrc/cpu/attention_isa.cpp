// Attention of a few queries over many slots of keys and values. Compiled three times with
// different instruction sets; EFT_ISA names the copy.
//
// Slots are taken in chunks with a running maximum. A row's sums are in the order of its slots, by
// their place in a chunk, so they do not depend on what other rows attend to, on their number, or
// on the slots behind its last one.
#include "cpu/attention_isa.h"

#include <algorithm>

#include "cpu/attention_sums.h"

namespace eft {
namespace {

constexpr int kStep = 8;    // slots whose values stay in the nearest cache for all rows
constexpr int kAhead = 16;  // slots between a prefetch and the use

// A row's scores become weights e^(score - largest so far); its sums follow that maximum.
void soften(const Rows& rows, int64_t row, const float* bias) {
  float* scores = rows.scores + row * kChunk;
  Vector most = splat(-INFINITY), any = splat(-INFINITY);
  for (int s = 0; s < kChunk; s += kWidth) {
    const Vector allowed = load(bias + s);
    const Vector score = add_bias(load(scores + s), allowed);
    store(scores + s, score);
    most = larger(most, score);
    any = larger(any, allowed);
  }
  if (largest(any) == -INFINITY) {  // nothing for this row in this chunk
    std::fill_n(scores, kChunk, 0.0f);
    return;
  }
  const float before = rows.most[row], now = std::max(before, largest(most));
  const Vector reference = splat(now);
  Vector mass = splat(0.0f);
  for (int s = 0; s < kChunk; s += kWidth) {
    const Vector weight = exponential(load(scores + s) - reference);
    store(scores + s, weight);
    mass = mass + weight;
  }
  float scale = 1.0f;
  if (before != now) {
    float scales[kWidth];
    store(scales, exponential(splat(before - now)));
    scale = scales[0];
    float* sums = rows.sums + row * rows.padded_dim;
    for (int d = 0; d < rows.padded_dim; d += kWidth) {
      store(sums + d, load(sums + d) * splat(scale));
    }
  }
  rows.most[row] = now;
  rows.mass[row] = rows.mass[row] * scale + sum_of(mass);
}

template <class T>
void attend(const eft_attention& a, int64_t part, float* scratch) {
  const Rows rows(a, scratch);
  const int64_t b = part / a.num_kv_heads, kv_head = part % a.num_kv_heads;
  const int64_t first_head = kv_head * (a.num_heads / a.num_kv_heads);
  const int dim = int(a.head_dim);
  for (int64_t r = 0; r < rows.count; ++r) {
    const T* q = at<T>(a.q, a.q_strides, b, first_head + r / a.num_queries, r % a.num_queries);
    float* to = rows.q + r * rows.padded_dim;
    for (int d = 0; d < dim; ++d) to[d] = to_float(q[d]) * a.scale;
    std::fill(to + dim, to + rows.padded_dim, 0.0f);
    rows.most[r] = -INFINITY;
    rows.mass[r] = 0.0f;
  }
  std::fill_n(rows.sums, rows.count * rows.padded_dim, 0.0f);
  const T* keys = at<T>(a.k, a.k_strides, b, kv_head, 0);
  const T* values = at<T>(a.v, a.v_strides, b, kv_head, 0);
  const int64_t k_stride = a.k_strides[2], v_stride = a.v_strides[2];
  Slots slots;
  for (int64_t first = 0; first < a.num_slots; first += kChunk) {
    const int count = int(std::min<int64_t>(kChunk, a.num_slots - first));
    read_mask(a, b, first_head, first, count, rows, slots);
    const T *chunk_keys = keys + first * k_stride, *chunk_values = values + first * v_stride;
    prefetch(chunk_keys, k_stride, slots, 0, kAhead, dim);
    for (int i = 0; i < slots.count;) {
      prefetch(chunk_keys, k_stride, slots, i + kAhead, i + kAhead + 4, dim);
      const int s = slots.at[i] / 4 * 4;
      while (i < slots.count && slots.at[i] < s + 4) ++i;
      const T* k[4];
      EFT_UNROLL
      for (int j = 0; j < 4; ++j) k[j] = chunk_keys + std::min(s + j, count - 1) * k_stride;
      by_threes(rows.count, [&](int64_t r, auto q) {
        dot<decltype(q)::value>(rows.q + r * rows.padded_dim, rows.padded_dim, k, dim,
                                rows.scores + r * kChunk + s);
      });
    }
    if (!slots.count) continue;
    prefetch(chunk_values, v_stride, slots, 0, kAhead, dim);
    for (int64_t r = 0; r < rows.count; ++r) {
      const int64_t mask_row = rows.shared_bias ? r % a.num_queries : r;
      soften(rows, r, rows.biases + mask_row * kChunk);
    }
    for (int i = 0; i < slots.count; i += kStep) {
      prefetch(chunk_values, v_stride, slots, i + kAhead, i + kAhead + kStep, dim);
      by_threes(rows.count, [&](int64_t r, auto q) {
        weigh_all<decltype(q)::value>(
            rows.scores + r * kChunk, slots.at + i, std::min(kStep, slots.count - i),
            rows.sums + r * rows.padded_dim, rows.padded_dim, chunk_values, v_stride, dim);
      });
    }
  }
  for (int64_t r = 0; r < rows.count; ++r) {
    T* out = const_cast<T*>(
        at<T>(a.out, a.out_strides, b, first_head + r / a.num_queries, r % a.num_queries));
    const float* sums = rows.sums + r * rows.padded_dim;
    const float mass = rows.most[r] == -INFINITY && rows.mass[r] == 0.0f ? 1.0f : rows.mass[r];
    for (int d = 0; d < dim; ++d) out[d] = from_float<T>(sums[d] / mass);
  }
}

void attend_part(const eft_attention& a, int64_t part, float* scratch) {
  if (a.dtype == EFT_BF16) return attend<Bf16>(a, part, scratch);
  if (a.dtype == EFT_FP16) return attend<Fp16>(a, part, scratch);
  attend<float>(a, part, scratch);
}

}  // namespace

namespace attention {

extern const Part EFT_ISA;
const Part EFT_ISA = attend_part;

}  // namespace attention
}  // namespace eft
