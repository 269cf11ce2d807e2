// The C interface of libeft: addresses, strides and a stream. No torch, no Python, no C++ types.
//
// One call describes one step of emulated fine-tuning: K logits tensors [num_rows, vocab_size] are
// mixed, filtered and sampled. docs/internals/numerics.md defines what is computed, bit for bit on
// every backend.
#ifndef EFT_H_
#define EFT_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EFT_API __attribute__((visibility("default")))
#define EFT_MAX_MODELS 4

// The version of this interface. Raised with every change of a struct, an enum or an entry point,
// additions at the end included: structs are passed without their size, so a caller and a library
// that were built with different headers would read different fields. Compare it with
// eft_abi_version() before the first call.
#define EFT_ABI_VERSION 3

// Returned by every entry point; eft_last_error() has the message (numerics.md §12).
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

// Per-row results beside the token (numerics.md §10); a null address is not written.
typedef struct {
  float* logprobs;        // [num_rows]
  float* raw_logprobs;    // [num_rows]
  float* model_logprobs;  // [num_rows, num_models]
  float* entropy;         // [num_rows]
  int32_t* num_kept;      // [num_rows]
  int64_t* top_ids;       // [num_rows, num_top]
  float* top_logprobs;    // [num_rows, num_top]
  int32_t* status;        // [num_rows], 0 ok, 1 invalid
  int32_t num_top;
} eft_details;

// Tokens that the models do not share (numerics.md §15), by tiles of 1024 ids. `tiles` is null
// where there are none.
typedef struct {
  const int32_t* tiles;  // [ceil(vocab_size / 1024)]: which of `masks` is a tile's, or -1
  const int32_t* masks;  // [n, 2, 32], bit i % 32 of word i / 32: token i of the tile is special;
                         // it is the owner's own, and otherwise excluded
  int32_t owner;         // the index of the model; -1: no token is its own
} eft_special_tokens;

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

  // Conservative re-weighting (numerics.md §7) of three models with weights (scale, 1,
  // -scale).
  int32_t conservative;       // 0 off, else 1 + the index of the defining model
  int32_t conservative_drop;  // tokens outside S: 0 keeps z = tuned, 1 excludes
  eft_real conservative_top_p;

  const float* bias;  // fp32 [vocab_size] (bias_row_stride 0) or [num_rows, vocab_size], or null
  int64_t bias_row_stride;
  const int32_t* token_bitmask;  // [num_rows, ceil(vocab_size / 32)], or null
  int64_t token_bitmask_row_stride;
  eft_special_tokens special;

  eft_integer seed;      // `value`: one for the batch; `rows`: each row's own (§5)
  eft_integer position;  // tokens this row has generated so far

  int64_t* tokens;  // [num_rows]
  eft_details details;
} eft_step;

// Teacher-forced statistics of K models and of their mixture, the (K+1)-th distribution
// (numerics.md §9), in nats and at temperature 1. A null address is not written, and what only
// it needs is not computed.
typedef struct {
  double* lse;          // [num_rows, K+1], log sum exp of the logits
  float* logprobs;      // [num_rows, K+1], of the target; -inf where it is excluded
  float* entropy;       // [num_rows, K+1]
  float* max_prob;      // [num_rows, K+1], the largest probability
  float* log1m_max;     // [num_rows, K+1], log(1 - max_prob) from the sum of all others
  float* sum_squares;   // [num_rows, K+1], sum of the squared probabilities
  int64_t* argmax;      // [num_rows, K+1], lowest id on ties
  int64_t* rank;        // [num_rows, K+1], tokens before the target (logit descending, then id)
  int64_t* top_ids;     // [num_rows, K+1, num_top], first of the rank; -1 where fewer exist
  float* top_logprobs;  // [num_rows, K+1, num_top]

  // p the mixture, q the compared model.
  float* tv;               // [num_rows], sum |p - q| / 2
  float* kl;               // [num_rows], sum p (log p - log q)
  int64_t* up_ids;         // [num_rows, num_changed], largest p - q > 0 first; -1 where fewer exist
  float* up_log_ratios;    // [num_rows, num_changed], their log p - log q; 0 where id is -1
  int64_t* down_ids;       // [num_rows, num_changed], smallest p - q < 0 first
  float* down_log_ratios;  // [num_rows, num_changed]

  // 0 ok. 1 invalid (NaN, +inf, everything excluded, a bad option, a target that is no token):
  // floats are NaN, ids and ranks -1. 2 ignored, and not read: floats are 0, ids and ranks -1.
  int32_t* status;  // [num_rows]
  int32_t num_top;
  int32_t num_changed;
} eft_score_stats;

typedef struct {
  eft_step mixture;        // its fields up to `special`; the others are not read
  const int64_t* targets;  // [num_rows], in [0, vocab_size) or ignore_index
  int64_t ignore_index;
  int32_t compared;  // the model that the mixture is compared with, 0 to K-1
  eft_score_stats stats;
} eft_score;

// Speculative verification (numerics.md §8): which of a row's drafted tokens are accepted, and
// the token that follows them.
typedef struct {
  // The mixture at position 0; position i lies i strides further. tokens and details are not used.
  // `seed` and `position` are those of the first draft.
  eft_step step;
  int64_t logits_position_stride[EFT_MAX_MODELS];  // in elements
  int64_t token_bitmask_position_stride;           // 0: one mask for all positions

  int32_t num_drafts;     // 0: an ordinary step, and neither drafts nor draft_logits are read
  const int64_t* drafts;  // [num_rows, num_drafts]
  eft_integer lengths;    // drafts of a row that count, 0 to num_drafts
  // The draft model's logits [num_rows, num_drafts, >= vocab_size]; data is null, or not read,
  // where draft_temperature is greedy.
  eft_logits draft_logits;
  int64_t draft_position_stride;
  eft_real draft_temperature;
  eft_integer draft_top_k;
  eft_real draft_top_p;
  eft_real draft_min_p;

  int64_t* tokens;        // [num_rows, num_drafts + 1]
  int64_t* num_accepted;  // [num_rows]
  int32_t* status;        // [num_rows], 0 ok, 1 invalid
} eft_verify;

EFT_API int32_t eft_abi_version(void);     // EFT_ABI_VERSION as the library was built with it
EFT_API const char* eft_version(void);     // of the package
EFT_API const char* eft_last_error(void);  // of the calling thread

// CPU. `isa` is one of EFT_ISA_*. Rows are shared among at most `max_threads` threads of the OpenMP
// pool that the process already runs (0: as many as it would use); small work stays on the calling
// thread.
EFT_API int eft_step_cpu(const eft_step* step, int isa, int max_threads);
EFT_API int eft_verify_cpu(const eft_verify* verify, int isa, int max_threads);
// z, the mixture's logits, fp32 [num_rows, vocab_size]; excluded tokens are -inf. Reads the fields
// up to bias, and `special`.
EFT_API int eft_combine_cpu(const eft_step* step, float* z, int64_t z_row_stride, int isa);
// As eft_step_cpu; everything but tv, kl, up and down takes one read of the logits.
EFT_API int eft_score_cpu(const eft_score* score, int isa, int max_threads);
EFT_API int eft_cpu_best_isa(void);
EFT_API uint64_t eft_cpu_scratch_bytes(int64_t vocab_size);

// CUDA, on the caller's stream; compiled in when nvcc was found.
EFT_API int eft_cuda_built(void);
EFT_API const char* eft_cuda_architectures(void);  // "80 90 100 and PTX", or "" without CUDA
EFT_API int eft_cuda_device_count(void);           // 0 without a driver
// The bytes of workspace that a step of this shape and these options needs: device memory, 16-byte
// aligned, whose first EFT_CUDA_TICKET_BYTES are zero before its first use. Each step leaves them
// zero, so all steps of one stream may share a workspace. A captured step does not use those bytes:
// its graph has its own.
#define EFT_CUDA_TICKET_BYTES 12288
EFT_API uint64_t eft_cuda_workspace_bytes(const eft_step* step);
EFT_API int eft_step_cuda(const eft_step* step, void* stream, void* workspace,
                          uint64_t workspace_bytes);
// As eft_verify_cpu; at most 1535 drafts. A step and a verification of one stream may share a
// workspace.
EFT_API uint64_t eft_verify_cuda_workspace_bytes(const eft_verify* verify);
EFT_API int eft_verify_cuda(const eft_verify* verify, void* stream, void* workspace,
                            uint64_t workspace_bytes);
// As eft_combine_cpu.
EFT_API int eft_combine_cuda(const eft_step* step, float* z, int64_t z_row_stride, void* stream,
                             void* workspace, uint64_t workspace_bytes);
// As eft_score_cpu; with a workspace as the step's, which may be the same one.
EFT_API uint64_t eft_score_cuda_workspace_bytes(const eft_score* score);
EFT_API int eft_score_cuda(const eft_score* score, void* stream, void* workspace,
                           uint64_t workspace_bytes);

#ifdef __cplusplus
}
#endif
#endif  // EFT_H_
