// The layers' part of the C interface: a model's products and attention on the CPU, for the few
// tokens that a decoding step reads.
#ifndef EFT_LAYERS_H_
#define EFT_LAYERS_H_

#include "eft.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { EFT_BOOL = 3 };  // beside EFT_BF16, ...: of a mask alone, one byte each

// A linear layer for few rows: y = x weight^T + bias, all of one dtype and contiguous, summed in
// fp32 and rounded to nearest even. A row's bits depend on nothing but the row, the weight, the
// bias and the instruction set: neither on the other rows nor on the number of threads.
typedef struct {
  int64_t num_rows;
  int64_t in_features;
  int64_t out_features;
  int32_t dtype;
  const void* x;       // [num_rows, in_features]
  const void* weight;  // [out_features, in_features]
  const void* bias;    // [out_features], or null
  void* y;             // [num_rows, out_features]
} eft_linear;

// softmax(q k^T * scale + mask) v for a few queries over many slots. Strides are of sequence, head
// and query or slot, in elements; head_dim values are contiguous.
typedef struct {
  int64_t batch;
  int64_t num_heads;
  int64_t num_kv_heads;  // divides num_heads: head h reads keys h / (num_heads / num_kv_heads)
  int64_t num_queries;
  int64_t num_slots;
  int64_t head_dim;  // at most 1024
  const void* q;     // [batch, num_heads, num_queries, head_dim]
  const void* k;     // [batch, num_kv_heads, num_slots, head_dim]
  const void* v;     // as k
  void* out;         // as q
  int64_t q_strides[3];
  int64_t k_strides[3];
  int64_t v_strides[3];
  int64_t out_strides[3];
  int32_t dtype;  // of q, k, v and out
  float scale;
  const void* mask;  // [batch, num_heads, num_queries, num_slots], contiguous slots, or null:
                     // added to the scores (-inf excludes), or bool (0 excludes)
  int64_t mask_strides[3];  // 0 where one mask is for all
  int32_t mask_dtype;       // EFT_BF16, EFT_FP16, EFT_FP32 or EFT_BOOL
} eft_attention;

// As eft_step_cpu, but outputs are shared instead of rows. The weight is read once for every 64
// rows.
EFT_API int eft_linear_cpu(const eft_linear* linear, int isa, int max_threads);
// A row without a slot gives zeros. A row's bits depend on its own query and slots alone, where
// values are finite. Values of slots that no row of a sequence and of heads that share them attends
// to are not used.
EFT_API int eft_attention_cpu(const eft_attention* attention, int isa, int max_threads);

#ifdef __cplusplus
}
#endif
#endif  // EFT_LAYERS_H_
