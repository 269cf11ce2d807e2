// RowInputs: the models, bias and bitmask of one row, set up by one thread for mix.cuh.
#ifndef EFT_CUDA_COMMON_ROW_INPUTS_CUH_
#define EFT_CUDA_COMMON_ROW_INPUTS_CUH_

#include "cuda/common/plan.cuh"

namespace eft {
namespace {

struct Model {
  const char* logits;  // of the row
  float weight;
  float lowest;  // the lowest finite value excludes a token, as -inf does
  int dtype;
};

// In shared memory. A bias is one more term, of weight 1, that excludes nothing: fma(1, b, z) is
// z + b.
struct RowInputs {
  Model models[EFT_MAX_MODELS + 1];
  const int32_t* token_bitmask;  // the row's, or null
  int num_terms;                 // models and bias
  int vocab_size;
  float c;             // t = z * c
  float square_limit;  // a sum of squares up to this means that no token needs a test
  bool all_bf16;       // bf16 on 16-byte boundaries, and nothing but models
  bool conservative, drop;
  int defining;
  float delta, nucleus_t;
  uint32_t nucleus_id;
  // Special tokens (numerics.md §15; special.cuh).
  const int32_t* special_tiles;  // or null
  const int32_t* special_masks;
  const float* bias;   // the row's, or null
  int owner;           // -1: no token is drawn as its own in this row
  bool has_own_delta;  // else own tokens are excluded too
  float own_delta;
};

// `inputs` lies in shared memory, since the compiler does not know the number of models.
__device__ __forceinline__ void set_models(const Plan& plan, const RowOptions& o, int64_t row,
                                           int model, RowInputs& inputs) {
  const eft_step& s = plan.step;
  const bool is_nuclei_stage = plan.stage == kModelNuclei;
  inputs.vocab_size = int(s.vocab_size);
  inputs.c = plan.stage == kMixOnly ? 1.0f : o.scale;
  float sum = 1.0f;
  const int num_models = is_nuclei_stage ? 1 : s.num_models;
#pragma unroll 1
  for (int k = 0; k < num_models; ++k) {
    const eft_logits& logits = s.logits[is_nuclei_stage ? model : k];
    const int64_t size = logits.dtype == EFT_FP32 ? 4 : 2;
    const char* row_logits = static_cast<const char*>(logits.data) + row * logits.row_stride * size;
    inputs.models[k] = {row_logits, o.weights[k], lowest_of(logits.dtype), logits.dtype};
    sum += fabsf(o.weights[k]);
  }
  inputs.num_terms = num_models;
  inputs.token_bitmask = nullptr;
  inputs.bias = nullptr;
  if (!is_nuclei_stage && s.bias) {
    inputs.bias = s.bias + row * s.bias_row_stride;
    inputs.models[num_models] = {reinterpret_cast<const char*>(inputs.bias), 1.0f, NAN, EFT_FP32};
    inputs.num_terms = num_models + 1;
  }
  if (!is_nuclei_stage && s.token_bitmask)
    inputs.token_bitmask = s.token_bitmask + row * s.token_bitmask_row_stride;
  // Magnitudes up to 2^126 / sum / c cannot overflow z or t. A sum of squares up to 2^100 bounds
  // them by 2^50, so 2^60 is enough.
  inputs.square_limit = sum * fmaxf(inputs.c, 1.0f) < 0x1p66f ? 0x1p100f : -1.0f;
  inputs.conservative = !is_nuclei_stage && s.conservative && o.conservative_top_p != kWhole;
  inputs.special_tiles = is_nuclei_stage ? nullptr : s.special.tiles;
  inputs.special_masks = s.special.masks;
  inputs.owner = inputs.special_tiles ? s.special.owner : -1;
  if (inputs.owner >= 0 && !(o.weights[inputs.owner] > 0.0f)) inputs.owner = -1;
  inputs.has_own_delta = false;
}

__device__ __forceinline__ void set_nucleus(const eft_step& s, const RowOptions& o,
                                            const Nucleus& nucleus, RowInputs& inputs) {
  const double shift = nucleus.log_normaliser[2] - nucleus.log_normaliser[0];
  inputs.delta = float(double(o.weights[0]) * shift);
  inputs.nucleus_t = nucleus.t;
  inputs.nucleus_id = nucleus.id;
  inputs.defining = s.conservative - 1;
  inputs.drop = s.conservative_drop != 0;
}

// False with a bias, which is fp32.
__device__ __forceinline__ bool is_all_bf16(const RowInputs& inputs) {
  bool all_bf16 = !inputs.token_bitmask && !inputs.conservative;
#pragma unroll 1
  for (int k = 0; k < inputs.num_terms; ++k) {
    all_bf16 &= inputs.models[k].dtype == EFT_BF16 &&
                (reinterpret_cast<uintptr_t>(inputs.models[k].logits) & 15) == 0;
  }
  return all_bf16;
}

__device__ __forceinline__ void set_row_inputs(const Plan& plan, const RowOptions& o, int64_t row,
                                               int model, RowInputs& inputs) {
  set_models(plan, o, row, model, inputs);
  if (inputs.conservative)
    set_nucleus(plan.step, o, plan.workspace.nuclei[row - plan.first_row], inputs);
  inputs.all_bf16 = is_all_bf16(inputs);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_ROW_INPUTS_CUH_
