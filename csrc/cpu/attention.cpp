// The CPU's entry point of attention: checks, chooses the instruction set, shares the heads of keys
// among threads.
#include <stdlib.h>

#include <atomic>
#include <memory>

#include "common/error.h"
#include "cpu/attention_isa.h"
#include "cpu/float_mode.h"
#include "cpu/parallel.h"

namespace eft {
namespace {

attention::Part kernel(int isa) {
  const int best = eft_cpu_best_isa();
  switch (isa == EFT_ISA_AUTO ? best : isa <= best ? isa : -1) {
#ifdef EFT_X86
#ifdef EFT_AVX512
    case EFT_ISA_AVX512: return attention::kAvx512;
#endif
    case EFT_ISA_AVX2: return attention::kAvx2;
#endif
    case EFT_ISA_PORTABLE: return attention::kPortable;
    default: return nullptr;
  }
}

int check_attention(const eft_attention* a) {
  if (!a) return fail(EFT_BAD_ARGUMENT, "attention: null");
  if (a->batch < 1 || a->num_queries < 1 || a->num_slots < 1 || a->num_heads < 1) {
    return fail(EFT_BAD_ARGUMENT,
                "attention: expected a batch, heads, queries and slots, got %lld, %lld, %lld, %lld",
                (long long)a->batch, (long long)a->num_heads, (long long)a->num_queries,
                (long long)a->num_slots);
  }
  if (a->num_kv_heads < 1 || a->num_heads % a->num_kv_heads) {
    return fail(EFT_BAD_ARGUMENT, "num_kv_heads: expected a divisor of %lld, got %lld",
                (long long)a->num_heads, (long long)a->num_kv_heads);
  }
  if (a->head_dim < 1 || a->head_dim > 1024) {
    return fail(EFT_BAD_ARGUMENT, "head_dim: expected 1 to 1024, got %lld", (long long)a->head_dim);
  }
  if (!a->q || !a->k || !a->v || !a->out) {
    return fail(EFT_BAD_ARGUMENT, "q, k, v, out: expected four addresses, got a null one");
  }
  if (a->dtype < EFT_BF16 || a->dtype > EFT_FP32) {
    return fail(EFT_BAD_ARGUMENT, "dtype: expected bf16, fp16 or fp32, got %d", a->dtype);
  }
  if (a->mask && (a->mask_dtype < EFT_BF16 || a->mask_dtype > EFT_BOOL)) {
    return fail(EFT_BAD_ARGUMENT, "mask_dtype: expected bf16, fp16, fp32 or bool, got %d",
                a->mask_dtype);
  }
  return EFT_OK;
}

// A thread's memory, which grows.
class Floats {
 public:
  float* reserve(int64_t count) {
    if (count <= capacity_) return data_.get();
    capacity_ = 0;
    const size_t bytes = (size_t(count) * sizeof(float) + 63) / 64 * 64;
    data_.reset(static_cast<float*>(aligned_alloc(64, bytes)));
    if (data_) capacity_ = count;
    return data_.get();
  }

 private:
  struct Free {
    void operator()(void* p) const { ::free(p); }
  };
  int64_t capacity_ = 0;
  std::unique_ptr<float[], Free> data_;
};

// Below this many products another thread wakes up too late.
constexpr int64_t kMinProductsToShare = 1 << 18;

}  // namespace
}  // namespace eft

extern "C" int eft_attention_cpu(const eft_attention* attention, int isa, int max_threads) {
  using namespace eft;
  if (const int error = check_attention(attention)) return error;
  const eft_attention& a = *attention;
  const attention::Part attend = kernel(isa);
  if (!attend) {
    return fail(EFT_UNSUPPORTED, "isa: expected 0 to %d on this processor, got %d",
                eft_cpu_best_isa(), isa);
  }
  const int64_t floats = attention::scratch_floats(a);
  const int64_t products = a.batch * a.num_heads * a.num_queries * a.num_slots * a.head_dim;
  std::atomic<bool> out_of_memory{false};
  for_each_part(a.batch * a.num_kv_heads, products < kMinProductsToShare ? 1 : max_threads,
                [&](int64_t part) {
                  static thread_local Floats memory;
                  float* scratch = memory.reserve(floats);
                  if (!scratch) {
                    out_of_memory = true;
                    return;
                  }
                  const FloatMode mode;
                  attend(a, part, scratch);
                });
  if (out_of_memory) {
    return fail(EFT_NO_MEMORY, "scratch: %lld bytes a thread could not be allocated",
                (long long)floats * 4);
  }
  return EFT_OK;
}
