// The parts of a linear product, compiled once per instruction set from linear_isa.cpp.
#ifndef EFT_CPU_LINEAR_ISA_H_
#define EFT_CPU_LINEAR_ISA_H_

#include "eft_layers.h"

namespace eft {
namespace linear {

constexpr int kMaxRows = 64;  // of one read of the weight
constexpr int kColumns = 4;   // outputs that are formed side by side

struct Isa {
  // Rows [first_row, first_row + num_rows) of x as fp32, into `packed`: packed_size(...) floats.
  void (*pack)(const eft_linear& linear, int64_t first_row, int num_rows, float* packed);
  // Outputs [first, last) of those rows; `first` is a multiple of kColumns.
  void (*multiply)(const eft_linear& linear, int64_t first_row, int num_rows, const float* packed,
                   int64_t first, int64_t last);
};

extern const Isa kPortable, kAvx2, kAvx512;

// Each row is padded to whole lines, of at most 32 elements.
inline int64_t packed_size(const eft_linear& linear, int num_rows) {
  return (linear.in_features + 31) / 32 * 32 * num_rows;
}

}  // namespace linear
}  // namespace eft
#endif  // EFT_CPU_LINEAR_ISA_H_
