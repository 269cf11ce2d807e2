// Attention of a few queries over many slots of keys and values. Compiled three times with
// different instruction sets; EFT_ISA names the copy.
//
// Slots are taken in chunks with a running maximum. A row's sums are in the order of its slots, by
// their place in a chunk, so they do not depend on what other rows attend to, on their number, or
// on the slots behind its last one.
#include "cpu/attention_isa.h"

#include <algorithm>

#include "cpu/attention_vector.h"

namespace eft {
namespace {

using attention::kChunk;
constexpr int kStep = 8;    // slots whose values stay in the nearest cache for all rows
constexpr int kAhead = 16;  // slots between a prefetch and the use

// Registers stay registers where loops over them are written out, which not every level of
// optimisation does. Three rows by four, three operands and one more are AVX2's sixteen.
#define EFT_UNROLL _Pragma("GCC unroll 8")

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
    store_sums(scores + i * kChunk, sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
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
