// The CPU's entry points of the step: check, choose the instruction set, share the rows among
// threads.
#ifdef EFT_X86
#include <cpuid.h>
#endif

#include <atomic>

#include "common/error.h"
#include "cpu/float_mode.h"
#include "cpu/parallel.h"
#include "cpu/step_isa.h"

namespace eft {
namespace {

#ifdef EFT_X86
// By hand: clang 14's __builtin_cpu_supports does not know the name.
bool has_f16c() {
  unsigned a, b, c = 0, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

struct StepJob {
  const eft_step& step;
  const StepIsa& isa;
  float* z;
  int64_t z_row_stride;
  int row_threads = 1;  // for the work of one row
  std::atomic<bool> out_of_memory{false};

  StepJob(const eft_step& step, const StepIsa& isa, float* z, int64_t z_row_stride)
      : step(step), isa(isa), z(z), z_row_stride(z_row_stride) {}

  static void run(void* context, int64_t row) {
    static thread_local Scratch scratch;
    StepJob& job = *static_cast<StepJob*>(context);
    if (!scratch.reserve(job.step.vocab_size)) {
      job.out_of_memory = true;
      return;
    }
    scratch.threads = job.row_threads;
    const FloatMode mode;
    if (job.z) {
      job.isa.combine_row(job.step, row, scratch, job.z + row * job.z_row_stride);
    } else {
      job.isa.step_row(job.step, row, scratch);
    }
  }
};

int run(const eft_step* step, int isa, int max_threads, float* z, int64_t z_row_stride) {
  if (const int error = check_step(step)) return error;
  const StepIsa* chosen = kernels(isa);
  if (!chosen) return EFT_UNSUPPORTED;
  StepJob job(*step, *chosen, z, z_row_stride);
  const bool small = step->num_rows * step->vocab_size * step->num_models < kMinLogitsToShare;
  // A single conservative row is the work of four: its models, then parts of its mixture.
  if (step->num_rows == 1 && !small) job.row_threads = max_threads;
  for_each_row(step->num_rows, small ? 1 : max_threads, StepJob::run, &job);
  if (job.out_of_memory) {
    return fail(EFT_NO_MEMORY, "scratch: %llu bytes a thread could not be allocated",
                (unsigned long long)Scratch::bytes(step->vocab_size));
  }
  return EFT_OK;
}

}  // namespace

const StepIsa* kernels(int isa) {
  const int best = eft_cpu_best_isa();
  switch (isa == EFT_ISA_AUTO ? best : isa <= best ? isa : -1) {
#ifdef EFT_X86
#ifdef EFT_AVX512
    case EFT_ISA_AVX512: return &kAvx512;
#endif
    case EFT_ISA_AVX2: return &kAvx2;
#endif
    case EFT_ISA_PORTABLE: return &kPortable;
    default:
      fail(EFT_UNSUPPORTED, "isa: expected 0 to %d on this processor, got %d", best, isa);
      return nullptr;
  }
}

}  // namespace eft

extern "C" int eft_cpu_best_isa(void) {
#ifdef EFT_X86
  static const int best = [] {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi2") && eft::has_f16c();
#ifdef EFT_AVX512
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      return EFT_ISA_AVX512;
    }
#endif
    return avx2 ? EFT_ISA_AVX2 : EFT_ISA_PORTABLE;
  }();
  return best;
#else
  return EFT_ISA_PORTABLE;
#endif
}

extern "C" uint64_t eft_cpu_scratch_bytes(int64_t vocab_size) {
  return eft::Scratch::bytes(vocab_size);
}

extern "C" int eft_step_cpu(const eft_step* step, int isa, int max_threads) {
  if (step && !step->tokens) return eft::fail(EFT_BAD_ARGUMENT, "tokens: null");
  return eft::run(step, isa, max_threads, nullptr, 0);
}

extern "C" int eft_combine_cpu(const eft_step* step, float* z, int64_t z_row_stride, int isa) {
  if (!z) return eft::fail(EFT_BAD_ARGUMENT, "z: null");
  return eft::run(step, isa, 0, z, z_row_stride);
}
