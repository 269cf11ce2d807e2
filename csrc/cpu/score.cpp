// The CPU's entry point of scoring (numerics.md §9): checks, chooses the instruction set,
// shares the rows among threads.
#include "common/score.h"

#include <atomic>

#include "cpu/float_mode.h"
#include "cpu/parallel.h"
#include "cpu/score_isa.h"

namespace eft {
namespace {

scoring::ScoreRow kernel(int isa) {
  switch (isa == EFT_ISA_AUTO ? eft_cpu_best_isa() : isa) {
#ifdef EFT_X86
#ifdef EFT_AVX512
    case EFT_ISA_AVX512: return scoring::kAvx512;
#endif
    case EFT_ISA_AVX2: return scoring::kAvx2;
#endif
    case EFT_ISA_PORTABLE: return scoring::kPortable;
    default: return nullptr;
  }
}

// Below this many logits a model a row's work is over before another thread has woken up.
constexpr int64_t kMinLogitsToShare = 1 << 14;

struct ScoreJob {
  const eft_score& score;
  scoring::ScoreRow score_row;
  int64_t scratch_size;
  std::atomic<bool> out_of_memory{false};

  ScoreJob(const eft_score& score, scoring::ScoreRow score_row)
      : score(score),
        score_row(score_row),
        scratch_size(score.mixture.conservative ? score.mixture.vocab_size : 1) {}

  static void run(void* context, int64_t row) {
    static thread_local Scratch scratch;
    ScoreJob& job = *static_cast<ScoreJob*>(context);
    if (!scratch.reserve(job.scratch_size)) {
      job.out_of_memory = true;
      return;
    }
    const FloatMode mode;
    job.score_row(job.score, row, scratch);
  }
};

}  // namespace
}  // namespace eft

extern "C" int eft_score_cpu(const eft_score* given, int isa, int max_threads) {
  using namespace eft;
  eft_score score;
  if (const int error = check_score(given, score)) return error;
  const scoring::ScoreRow chosen = isa <= eft_cpu_best_isa() ? kernel(isa) : nullptr;
  if (!chosen) {
    return fail(EFT_UNSUPPORTED, "isa: expected 0 to %d on this processor, got %d",
                eft_cpu_best_isa(), isa);
  }
  ScoreJob job(score, chosen);
  const int64_t logits = score.mixture.num_rows * score.mixture.vocab_size;
  for_each_row(score.mixture.num_rows, logits < kMinLogitsToShare ? 1 : max_threads, ScoreJob::run,
               &job);
  if (job.out_of_memory) {
    return fail(EFT_NO_MEMORY, "scratch: %llu bytes a thread could not be allocated",
                (unsigned long long)Scratch::bytes(job.scratch_size));
  }
  return EFT_OK;
}
