// The step from several threads at once, each sharing its rows with a pool; for ThreadSanitizer.
//
// libgomp is not instrumented: the sanitizer does not see its barriers and would report every
// result as a race. The step looks up GOMP_parallel at run time, so this test defines one on
// std::thread, which the sanitizer understands. The test is of how the step shares its rows.
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "eft.h"
#include "tests/check.h"

std::atomic<int> shared{0};  // calls of the pool

extern "C" __attribute__((visibility("default"))) int omp_get_max_threads() { return 3; }

extern "C" __attribute__((visibility("default"))) void GOMP_parallel(void (*work)(void*),
                                                                     void* data, unsigned threads,
                                                                     unsigned) {
  ++shared;
  std::vector<std::thread> pool;
  for (unsigned i = 1; i < threads; ++i) pool.emplace_back(work, data);
  work(data);
  for (std::thread& t : pool) t.join();
}

namespace {

constexpr int kRows = 24, kVocab = 3000;
constexpr int kLong = 22000;  // times three models: enough for a conservative row to be shared

struct Call {
  std::vector<int64_t> tokens = std::vector<int64_t>(kRows);
  std::vector<float> logprobs = std::vector<float>(kRows);
  std::vector<int32_t> num_kept = std::vector<int32_t>(kRows);

  // Draws from the shared logits under the seed; then checks that the error message is this
  // thread's own.
  void run(const std::vector<float>& logits, int64_t seed, int max_threads) {
    eft_step step{};
    step.num_rows = kRows;
    step.vocab_size = kVocab;
    step.num_models = 2;
    for (int k = 0; k < 2; ++k) {
      step.logits[k] = {logits.data() + k, kVocab, EFT_FP32};
      step.weights[k] = {nullptr, 0, k == 0 ? 1.5f : -0.5f};
    }
    step.temperature.value = step.conservative_top_p.value = 1.0f;
    step.top_p.value = 0.9f;
    step.seed.value = seed;
    step.tokens = tokens.data();
    step.details.logprobs = logprobs.data();
    step.details.num_kept = num_kept.data();
    CHECK(eft_step_cpu(&step, EFT_ISA_AUTO, max_threads) == EFT_OK);
    step.num_rows = -seed;
    CHECK(eft_step_cpu(&step, EFT_ISA_AUTO, max_threads) == EFT_BAD_ARGUMENT);
    char want[64];
    snprintf(want, sizeof(want), "num_rows: expected at least 1, got %lld", (long long)-seed);
    CHECK(!strcmp(eft_last_error(), want));
  }

  // One conservative row, into the first token.
  void run_conservative(const std::vector<float>& logits, int64_t seed, int max_threads) {
    eft_step step{};
    step.num_rows = 1;
    step.vocab_size = kLong;
    step.num_models = 3;
    for (int k = 0; k < 3; ++k) {
      step.logits[k] = {logits.data() + k * kLong, kLong, EFT_FP32};
      step.weights[k] = {nullptr, 0, k == 2 ? -1.0f : 1.0f};
    }
    step.conservative = int32_t(1 + seed % 3);
    step.conservative_top_p.value = 0.6f;
    step.temperature.value = 1.0f;
    step.top_p.value = 0.9f;
    step.seed.value = seed;
    step.tokens = tokens.data();
    step.details.logprobs = logprobs.data();
    step.details.num_kept = num_kept.data();
    CHECK(eft_step_cpu(&step, EFT_ISA_AUTO, max_threads) == EFT_OK);
    CHECK(tokens[0] >= 0);
  }
};

}  // namespace

int main() {
  static_assert(kRows * kVocab >= 3 * kLong, "the logits serve both");
  std::vector<float> logits(kRows * kVocab + 1);
  uint32_t state = 1;
  for (float& v : logits) {
    state = state * 1664525u + 1013904223u;
    v = float(state >> 8) * (12.0f / (1 << 24));
  }
  constexpr int kCallers = 4;
  Call alone[kCallers], together[kCallers];
  for (int i = 0; i < kCallers; ++i) alone[i].run(logits, i + 1, 1);
  for (int round = 0; round < 4; ++round) {
    std::vector<std::thread> callers;
    for (int i = 0; i < kCallers; ++i) {
      callers.emplace_back([&, i] { together[i].run(logits, i + 1, 0); });
    }
    for (std::thread& t : callers) t.join();
    for (int i = 0; i < kCallers; ++i) {
      CHECK(together[i].tokens == alone[i].tokens && together[i].num_kept == alone[i].num_kept &&
            together[i].logprobs == alone[i].logprobs);
    }
  }
  const Call rows = alone[0];
  for (int i = 0; i < kCallers; ++i) alone[i].run_conservative(logits, i + 1, 1);
  for (int round = 0; round < 4; ++round) {
    std::vector<std::thread> callers;
    for (int i = 0; i < kCallers; ++i) {
      callers.emplace_back([&, i] { together[i].run_conservative(logits, i + 1, 3); });
    }
    for (std::thread& t : callers) t.join();
    for (int i = 0; i < kCallers; ++i) {
      CHECK(together[i].tokens[0] == alone[i].tokens[0] &&
            together[i].num_kept[0] == alone[i].num_kept[0] &&
            together[i].logprobs[0] == alone[i].logprobs[0]);
    }
  }
  CHECK(shared > 0);
  // A forked child has one thread and must not wait for the pool's.
  const pid_t child = fork();
  if (!child) {
    shared = 0;
    together[0].run(logits, 1, 0);
    together[1].run_conservative(logits, 2, 0);
    CHECK(together[0].tokens == rows.tokens && together[1].tokens[0] == alone[1].tokens[0]);
    CHECK(shared == 0);
    _exit(failures != 0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  printf("threads: %d failures\n", failures);
  return failures != 0;
}
