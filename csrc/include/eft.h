// The C interface of libeft: addresses, strides and a stream. No torch, no Python, no C++ types.
//
// One call describes one step of emulated fine-tuning: K logits tensors [num_rows, vocab_size] are
// mixed, filtered and sampled. What is computed is defined in docs/numerics.md, bit for bit on
// every backend.
#ifndef EFT_H_
#define EFT_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EFT_API __attribute__((visibility("default")))
#define EFT_MAX_MODELS 4

// Returned by every entry point; the sentence that goes with it is eft_last_error().
enum {
  EFT_OK = 0,
  EFT_BAD_ARGUMENT = 1,
  EFT_UNSUPPORTED = 2,
  EFT_DEVICE_ERROR = 3,
  EFT_NO_MEMORY = 4
};

enum { EFT_BF16 = 0, EFT_FP16 = 1, EFT_FP32 = 2 };

// Instruction sets of the CPU step; EFT_ISA_AUTO takes the best that this processor has.
enum { EFT_ISA_AUTO = 0, EFT_ISA_PORTABLE = 1, EFT_ISA_AVX2 = 2, EFT_ISA_AVX512 = 3 };

// One model's logits [num_rows, >= vocab_size]; the last dimension is contiguous.
typedef struct {
  const void* data;
  int64_t row_stride;  // in elements
  int32_t dtype;
} eft_logits;

// A floating option: `value` for every row, or value * rows[row * stride].
typedef struct {
  const float* rows;
  int64_t stride;
  float value;
} eft_real;

// An integer option: `value` for every row, or rows[row].
typedef struct {
  const int64_t* rows;
  int64_t value;
} eft_integer;

// Per-row results beside the token; a null address is not written.
typedef struct {
  float* logprobs;        // [num_rows]
  float* raw_logprobs;    // [num_rows]
  float* model_logprobs;  // [num_rows, num_models]
  float* entropy;         // [num_rows]
  int32_t* kept;          // [num_rows]
  int64_t* top_ids;       // [num_rows, num_top]
  float* top_logprobs;    // [num_rows, num_top]
  int32_t* status;        // [num_rows], 0 ok, 1 invalid
  int32_t num_top;
} eft_details;

typedef struct {
  int64_t num_rows;
  int64_t vocab_size;
  int32_t num_models;
  eft_logits logits[EFT_MAX_MODELS];
  eft_real weights[EFT_MAX_MODELS];

  eft_real temperature;  // [0, 2^-20) is greedy
  eft_integer top_k;     // 0 off
  eft_real top_p;        // 1 off
  eft_real min_p;        // 0 off

  // Conservative re-weighting of three models with weights (scale, 1, -scale).
  int32_t conservative;       // 0 off, else 1 + the index of the model whose nucleus is S
  int32_t conservative_drop;  // tokens outside S: 0 keeps z = tuned, 1 excludes
  eft_real conservative_top_p;

  const float* bias;  // fp32 [vocab_size] (bias_row_stride 0) or [num_rows, vocab_size], or null
  int64_t bias_row_stride;
  const int32_t* allowed;  // bitmask [num_rows, ceil(vocab_size / 32)], or null
  int64_t allowed_row_stride;

  eft_integer seed;      // `value`: row b uses the (b+1)-th SplitMix64 output; `rows`: as it stands
  eft_integer position;  // tokens this row has generated so far

  int64_t* tokens;  // [num_rows]
  eft_details details;
} eft_step;

EFT_API const char* eft_version(void);
EFT_API const char* eft_last_error(void);  // of the calling thread

// CPU. `isa` is one of EFT_ISA_*; rows are shared among at most `max_threads` threads of the OpenMP
// pool that the process already runs (0: as many as it would use), small work stays on the calling
// thread.
EFT_API int eft_step_cpu(const eft_step* step, int isa, int max_threads);
// z, the mixture's logits, fp32 [num_rows, vocab_size]; excluded tokens are -inf. Reads the fields
// up to bias.
EFT_API int eft_combine_cpu(const eft_step* step, float* z, int64_t z_row_stride, int isa);
EFT_API int eft_cpu_best_isa(void);
EFT_API uint64_t eft_cpu_scratch_bytes(int64_t vocab_size);

// CUDA, on the caller's stream; compiled in when nvcc was found.
EFT_API int eft_cuda_built(void);
EFT_API const char* eft_cuda_architectures(void);  // "80-real 90-real 100" or ""
EFT_API int eft_cuda_device_count(void);           // 0 without a driver
// What a step of this shape and these options wants as workspace: memory of the device, 16-byte
// aligned, whose first EFT_CUDA_TICKET_BYTES are zero before its first use. Each step leaves them
// zero, so that all steps of one stream may share a workspace.
#define EFT_CUDA_TICKET_BYTES 12288
EFT_API uint64_t eft_cuda_workspace_bytes(const eft_step* step);
EFT_API int eft_step_cuda(const eft_step* step, void* stream, void* workspace,
                          uint64_t workspace_bytes);
// As eft_combine_cpu.
EFT_API int eft_combine_cuda(const eft_step* step, float* z, int64_t z_row_stride, void* stream,
                             void* workspace, uint64_t workspace_bytes);

#ifdef __cplusplus
}
#endif
#endif  // EFT_H_
