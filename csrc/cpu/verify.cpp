// The CPU's entry point of speculative verification (numerics.md §8): checks, chooses the
// instruction set, shares the rows among threads.
#include <atomic>

#include "common/error.h"
#include "cpu/float_mode.h"
#include "cpu/parallel.h"
#include "cpu/step_isa.h"

namespace eft {
namespace {

struct VerifyJob {
  const eft_verify& verify;
  const StepIsa& isa;
  std::atomic<bool> out_of_memory{false};

  VerifyJob(const eft_verify& verify, const StepIsa& isa) : verify(verify), isa(isa) {}

  static void run(void* context, int64_t row) {
    static thread_local Scratch scratch;
    VerifyJob& job = *static_cast<VerifyJob*>(context);
    if (!scratch.reserve(job.verify.step.vocab_size)) {
      job.out_of_memory = true;
      return;
    }
    const FloatMode mode;
    job.isa.verify_row(job.verify, row, scratch);
  }
};

}  // namespace
}  // namespace eft

extern "C" int eft_verify_cpu(const eft_verify* verify, int isa, int max_threads) {
  using namespace eft;
  if (const int error = check_verify(verify)) return error;
  const StepIsa* chosen = kernels(isa);
  if (!chosen) return EFT_UNSUPPORTED;
  VerifyJob job(*verify, *chosen);
  const eft_step& s = verify->step;
  const int64_t logits = s.num_rows * s.vocab_size * s.num_models * (verify->num_drafts + 1);
  for_each_row(s.num_rows, logits < kMinLogitsToShare ? 1 : max_threads, VerifyJob::run, &job);
  if (job.out_of_memory) {
    return fail(EFT_NO_MEMORY, "scratch: %llu bytes a thread could not be allocated",
                (unsigned long long)eft_cpu_scratch_bytes(s.vocab_size));
  }
  return EFT_OK;
}
