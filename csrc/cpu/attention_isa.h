// One part of attention, the heads that share keys and values in one sequence; compiled once per
// instruction set from attention_isa.cpp.
#ifndef EFT_CPU_ATTENTION_ISA_H_
#define EFT_CPU_ATTENTION_ISA_H_

#include "eft_layers.h"

namespace eft {
namespace attention {

constexpr int kChunk = 128;   // slots whose scores are held at once
constexpr int kPadding = 16;  // floats: rows of queries and of sums are whole registers

inline int64_t padded(int64_t n) { return (n + kPadding - 1) / kPadding * kPadding; }
inline int64_t num_rows(const eft_attention& a) {  // of queries in a part
  return a.num_heads / a.num_kv_heads * a.num_queries;
}
// Floats of a part's queries, sums, scores, biases, and largest score and mass of each row.
inline int64_t scratch_floats(const eft_attention& a) {
  return num_rows(a) * (2 * padded(a.head_dim) + 2 * kChunk + 2);
}

// `part` is sequence * num_kv_heads + head of keys; `scratch` is aligned to 64 bytes.
using Part = void (*)(const eft_attention& a, int64_t part, float* scratch);

extern const Part kPortable, kAvx2, kAvx512;

}  // namespace attention
}  // namespace eft
#endif  // EFT_CPU_ATTENTION_ISA_H_
