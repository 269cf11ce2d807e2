// Error messages, and the checks of a step and a verification (numerics.md §12).
#include "common/error.h"

#include <stdarg.h>
#include <stdio.h>

namespace eft {
namespace {

thread_local char message[256] = "";

bool always_greedy(const eft_real& temperature) {
  return !temperature.rows && temperature.value < 0x1p-20f;
}

}  // namespace

int fail(int code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  return code;
}

int check_step(const eft_step* step) {
  if (!step) return fail(EFT_BAD_ARGUMENT, "step: null");
  if (step->num_rows < 1)
    return fail(EFT_BAD_ARGUMENT, "num_rows: expected at least 1, got %lld",
                (long long)step->num_rows);
  // Beyond 2^22 tokens a row's mass may not fit into 64 bits (numerics.md §3).
  if (step->vocab_size < 1 || step->vocab_size > (int64_t(1) << 22)) {
    return fail(EFT_BAD_ARGUMENT, "vocab_size: expected 1 to 2^22, got %lld",
                (long long)step->vocab_size);
  }
  if (step->num_models < 1 || step->num_models > EFT_MAX_MODELS) {
    return fail(EFT_BAD_ARGUMENT, "num_models: expected 1 to %d, got %d", EFT_MAX_MODELS,
                step->num_models);
  }
  for (int k = 0; k < step->num_models; ++k) {
    if (!step->logits[k].data) return fail(EFT_BAD_ARGUMENT, "logits[%d]: null", k);
    if (step->logits[k].dtype < EFT_BF16 || step->logits[k].dtype > EFT_FP32) {
      return fail(EFT_BAD_ARGUMENT, "logits[%d].dtype: expected bf16, fp16 or fp32, got %d", k,
                  step->logits[k].dtype);
    }
  }
  if (step->conservative < 0 || step->conservative > 3 ||
      (step->conservative && step->num_models != 3)) {
    return fail(EFT_BAD_ARGUMENT,
                "conservative: expected 0, or 1 to 3 with three models, got %d with %d",
                step->conservative, step->num_models);
  }
  const eft_special_tokens& special = step->special;
  if (special.tiles && (!special.masks || special.owner >= step->num_models)) {
    return fail(EFT_BAD_ARGUMENT,
                "special: expected masks and an owner below %d, got owner %d and masks %s",
                step->num_models, special.owner, special.masks ? "given" : "null");
  }
  const eft_details& d = step->details;
  if (d.num_top < 0 || (d.num_top > 0 && (!d.top_ids || !d.top_logprobs))) {
    return fail(EFT_BAD_ARGUMENT,
                "details.num_top: expected 0, or addresses of top_ids and top_logprobs, got %d",
                d.num_top);
  }
  return EFT_OK;
}

int check_verify(const eft_verify* v) {
  if (!v) return fail(EFT_BAD_ARGUMENT, "verify: null");
  if (const int error = check_step(&v->step)) return error;
  if (v->num_drafts < 0) {
    return fail(EFT_BAD_ARGUMENT, "num_drafts: expected at least 0, got %d", v->num_drafts);
  }
  if (v->num_drafts && !v->drafts) return fail(EFT_BAD_ARGUMENT, "drafts: null");
  if (!v->tokens || !v->num_accepted || !v->status) {
    return fail(EFT_BAD_ARGUMENT, "tokens, num_accepted, status: expected addresses, got null");
  }
  if (v->num_drafts && !v->draft_logits.data && !always_greedy(v->draft_temperature)) {
    return fail(EFT_BAD_ARGUMENT, "draft_logits: null beside a draft_temperature that samples");
  }
  if (v->draft_logits.dtype < EFT_BF16 || v->draft_logits.dtype > EFT_FP32) {
    return fail(EFT_BAD_ARGUMENT, "draft_logits.dtype: expected bf16, fp16 or fp32, got %d",
                v->draft_logits.dtype);
  }
  return EFT_OK;
}

}  // namespace eft

extern "C" const char* eft_last_error(void) { return eft::message; }
extern "C" int32_t eft_abi_version(void) { return EFT_ABI_VERSION; }
extern "C" const char* eft_version(void) { return EFT_VERSION; }
