// A linear layer's product for few rows. Compiled three times with different instruction sets;
// EFT_ISA names the copy.
//
// The weight is read once, four of its rows (outputs) at a time, in blocks of kBlock elements that
// stay in L1 for all rows of x. Each lane of an output's vector sums every kWidth-th product in
// order, and the lanes are added at the end: an order that depends neither on the other rows nor on
// the other outputs. Unlike the step's copies these fuse products with sums.
#include "cpu/linear_isa.h"

#include <algorithm>

#include "cpu/linear_lanes.h"

namespace eft {
namespace {

using linear::kColumns;
using linear::kMaxRows;

constexpr int64_t kBlock = 512;                  // elements of a row
constexpr int kMostRows = kWidth == 16 ? 6 : 3;  // of x: as many sums as there are registers for
constexpr int kSums = kColumns * kWidth;         // of one row of x

// One pass needs nothing again, and reads the weight in one piece.
int64_t block_size(const eft_linear& l, int num_rows) {
  return num_rows <= kMostRows ? l.in_features : kBlock;
}

struct Pass {
  const float* x;  // [rows][lines of the block], packed
  int64_t lines;
  float* sums;       // [rows][kColumns][kWidth]
  bool fresh;        // they begin at 0
  bool contiguous;   // the weight's blocks are whole rows, and fetched as they lie in memory
  const char* next;  // what is fetched while this block is multiplied
  int64_t across;    // bytes between the lines of it that are fetched together
};

// With each line of this block kFetched lines of the next one are fetched: one row after another
// where it is contiguous, else of kFetched rows side by side.
template <class T, int kRows, int kFetched>
void multiply_rows(const Pass& pass, const T* const (&weight)[kColumns]) {
  constexpr int kVectors = kLineSize<T> / kWidth;
  Vector sums[kRows][kColumns];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      sums[i][j] = pass.fresh ? splat(0.0f) : load(pass.sums + i * kSums + j * kWidth);
    }
  }
  const T* w[kColumns] = {weight[0], weight[1], weight[2], weight[3]};
  const int64_t row = pass.lines * kLineSize<T>;
  const float* x = pass.x;
  const char* next = pass.next;
  const int64_t along = pass.contiguous ? kFetched * kLineBytes : kLineBytes;
  for (int64_t line = 0; line < pass.lines; ++line, next += along) {
    for (int i = 0; i < kFetched; ++i) __builtin_prefetch(next + i * pass.across);
    for (int h = 0; h < kVectors; ++h, x += kWidth) {
      Vector rows[kRows];
      for (int i = 0; i < kRows; ++i) rows[i] = load(x + i * row);
      for (int j = 0; j < kColumns; ++j) {
        const Vector v = load(w[j] + line * kLineSize<T>, h);
        for (int i = 0; i < kRows; ++i) sums[i][j] = multiply_add(rows[i], v, sums[i][j]);
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      store(pass.sums + i * kSums + j * kWidth, sums[i][j]);
    }
  }
}

template <class T, int kFetched, int kRows = kMostRows>
void multiply_some(int num_rows, const Pass& pass, const T* const (&weight)[kColumns]) {
  if constexpr (kRows > 1) {
    if (num_rows < kRows) return multiply_some<T, kFetched, kRows - 1>(num_rows, pass, weight);
  }
  multiply_rows<T, kRows, kFetched>(pass, weight);
}

// All rows of x by one block.
template <class T>
void multiply_block(int num_rows, Pass pass, const T* const (&weight)[kColumns]) {
  const int passes = (num_rows + kMostRows - 1) / kMostRows;
  for (int p = 0, done = 0; p < passes; ++p) {
    const int rows = (num_rows - done) / (passes - p);  // as equal as can be, the larger ones last
    if (passes == 1) {
      multiply_some<T, 4>(rows, pass, weight);
    } else if (passes < 4) {
      multiply_some<T, 2>(rows, pass, weight);
      pass.next += 2 * (pass.contiguous ? pass.lines * kLineBytes : pass.across);
    } else {
      multiply_some<T, 1>(rows, pass, weight);
      pass.next += pass.contiguous ? pass.lines * kLineBytes : pass.across;
    }
    done += rows;
    pass.x += rows * pass.lines * kLineSize<T>;
    pass.sums += rows * kSums;
  }
}

// -0 where there is no bias: the sum of anything and -0 is itself.
template <class T>
Four bias_of(const eft_linear& l, int64_t column, int num_columns) {
  Four bias = {-0.0f, -0.0f, -0.0f, -0.0f};
  if (!l.bias) return bias;
  const T* from = static_cast<const T*>(l.bias) + column;
  for (int j = 0; j < num_columns; ++j) bias[j] = to_float(from[j]);
  return bias;
}

template <class T>
void write(const float* sums, Four bias, int num_columns, T* y) {
  Vector v[kColumns];
  for (int j = 0; j < kColumns; ++j) v[j] = load(sums + j * kWidth);
  const Four four = sum_lanes(v[0], v[1], v[2], v[3]) + bias;
  if (num_columns == kColumns) return round_to(four, y);
  T some[kColumns];
  round_to(four, some);
  memcpy(y, some, size_t(num_columns) * sizeof(T));
}

template <class T>
void multiply(const eft_linear& l, int64_t first_row, int num_rows, const float* packed,
              int64_t first, int64_t last) {
  alignas(64) float sums[kMaxRows * kSums];
  T tail[kColumns][kLineSize<T>] = {};
  const int64_t whole = l.in_features / kLineSize<T> * kLineSize<T>;
  const int64_t size = block_size(l, num_rows);
  const size_t tail_bytes = size_t(l.in_features - whole) * sizeof(T);
  const T* weight = static_cast<const T*>(l.weight);
  for (int64_t column = first; column < last; column += kColumns) {
    const int num_columns = int(std::min<int64_t>(kColumns, last - column));
    const T* w[kColumns];
    for (int j = 0; j < kColumns; ++j) {  // the last ones are repeated
      w[j] = weight + std::min(column + j, last - 1) * l.in_features;
    }
    const char* after = reinterpret_cast<const char*>(
        weight + std::min(column + kColumns, last - 1) * l.in_features);
    Pass pass{};
    pass.contiguous = size >= whole;
    pass.across = pass.contiguous ? kLineBytes : l.in_features * int64_t(sizeof(T));
    pass.sums = sums;
    for (int64_t k = 0; k < whole; k += size) {
      pass.x = packed + k * num_rows;
      pass.lines = std::min(size, whole - k) / kLineSize<T>;
      pass.fresh = k == 0;
      pass.next = k + size < whole ? reinterpret_cast<const char*>(w[0] + k + size) : after;
      const T* block[kColumns];
      for (int j = 0; j < kColumns; ++j) block[j] = w[j] + k;
      multiply_block<T>(num_rows, pass, block);
    }
    if (tail_bytes) {
      pass.x = packed + whole * num_rows;
      pass.lines = 1;
      pass.fresh = whole == 0;
      pass.next = after;
      const T* block[kColumns];
      for (int j = 0; j < kColumns; ++j) {
        memcpy(tail[j], w[j] + whole, tail_bytes);
        block[j] = tail[j];
      }
      multiply_block<T>(num_rows, pass, block);
    }
    const Four bias = bias_of<T>(l, column, num_columns);
    T* y = static_cast<T*>(l.y) + first_row * l.out_features + column;
    for (int i = 0; i < num_rows; ++i) {
      write(sums + i * kSums, bias, num_columns, y + i * l.out_features);
    }
  }
}

template <class T>
void pack_line(const T* line, float* to) {
  for (int h = 0; h < kLineSize<T> / kWidth; ++h) store(to + h * kWidth, load(line, h));
}

// By blocks, as they are multiplied: [block][row][element].
template <class T>
void pack(const eft_linear& l, int64_t first_row, int num_rows, float* to) {
  const T* x = static_cast<const T*>(l.x) + first_row * l.in_features;
  const int64_t whole = l.in_features / kLineSize<T> * kLineSize<T>;
  const int64_t size = block_size(l, num_rows);
  for (int64_t k = 0; k < whole; k += size) {
    for (int i = 0; i < num_rows; ++i) {
      for (int64_t e = k; e < std::min(k + size, whole); e += kLineSize<T>) {
        pack_line(x + i * l.in_features + e, to);
        to += kLineSize<T>;
      }
    }
  }
  if (whole == l.in_features) return;
  for (int i = 0; i < num_rows; ++i, to += kLineSize<T>) {
    T tail[kLineSize<T>] = {};
    memcpy(tail, x + i * l.in_features + whole, size_t(l.in_features - whole) * sizeof(T));
    pack_line(tail, to);
  }
}

void pack_any(const eft_linear& l, int64_t first_row, int num_rows, float* to) {
  if (l.dtype == EFT_BF16) return pack<Bf16>(l, first_row, num_rows, to);
  if (l.dtype == EFT_FP16) return pack<Fp16>(l, first_row, num_rows, to);
  pack<float>(l, first_row, num_rows, to);
}

void multiply_any(const eft_linear& l, int64_t first_row, int num_rows, const float* packed,
                  int64_t first, int64_t last) {
  if (l.dtype == EFT_BF16) return multiply<Bf16>(l, first_row, num_rows, packed, first, last);
  if (l.dtype == EFT_FP16) return multiply<Fp16>(l, first_row, num_rows, packed, first, last);
  multiply<float>(l, first_row, num_rows, packed, first, last);
}

}  // namespace

namespace linear {

extern const Isa EFT_ISA;
const Isa EFT_ISA = {pack_any, multiply_any};

}  // namespace linear
}  // namespace eft
