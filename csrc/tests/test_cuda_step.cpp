// The CUDA step on the emulator beside the CPU step, under the sanitizers: every input and result
// in a buffer of exactly its size, at odd strides and addresses, all options, both kernels.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "emulator/kernels/step_on_host.h"
#include "tests/check.h"
#include "tests/random_inputs.h"

namespace {

struct Results {
  std::vector<int64_t> tokens, top_ids;
  std::vector<float> logprobs, raw, model, entropy, top_logprobs;
  std::vector<int32_t> kept, status;
  Results(size_t rows, size_t models, size_t top)
      : tokens(rows, -7),
        top_ids(rows * top, -7),
        logprobs(rows),
        raw(rows),
        model(rows * models),
        entropy(rows),
        top_logprobs(rows * top),
        kept(rows, -7),
        status(rows, -7) {}
  void into(eft_step& step, bool details, int top) {
    step.tokens = tokens.data();
    step.details = {};
    if (!details) return;
    step.details = {logprobs.data(),     raw.data(),    model.data(),
                    entropy.data(),      kept.data(),   top_ids.data(),
                    top_logprobs.data(), status.data(), top};
  }
};

void one_problem(uint64_t number) {
  const int models = 1 + int(pick(4)), rows = 1 + int(pick(3));
  const int vocab = one_of({1, 2, 31, 33, 255, 1023, 1024, 1025, 2048, 2500, 4096});
  const int top = one_of({0, 0, 1, 5, vocab + 2});
  const int same = one_of<int>({-1, EFT_BF16, EFT_BF16, EFT_FP16, EFT_FP32});
  eft_step step{};
  step.num_rows = rows;
  step.vocab_size = vocab;
  step.num_models = models;
  std::vector<std::vector<char>> x;
  for (int k = 0; k < models; ++k) {
    const int dtype = same < 0 ? one_of<int>({EFT_BF16, EFT_FP16, EFT_FP32}) : same;
    const int width = vocab + one_of({0, 0, 1, 7});
    // Exactly up to the end of the last row.
    x.push_back(logits(size_t(width) * (rows - 1) + vocab, dtype, int(pick(4))));
    step.logits[k] = {x[k].data(), width, dtype};
    step.weights[k] = {nullptr, 0, one_of({1.0f, -1.0f, 0.5f, 2.0f})};
  }
  std::vector<float> temperatures(rows, 0.7f), bias(vocab, 0.25f);
  for (float& t : temperatures) t = one_of({0.0f, 0.3f, 1.0f, 5.0f, -1.0f});
  std::vector<int64_t> seeds(rows), positions(rows);
  for (int r = 0; r < rows; ++r) seeds[r] = int64_t(random_bits()), positions[r] = pick(9);
  std::vector<int32_t> token_bitmask(size_t(rows) * ((vocab + 31) / 32));
  for (int32_t& word : token_bitmask) word = int32_t(random_bits());
  step.temperature = {pick(3) ? nullptr : temperatures.data(), 1, one_of({1.0f, 0.7f, 0.0f})};
  if (step.temperature.rows) step.temperature.value = 1.0f;
  step.top_p.value = one_of({1.0f, 0.9f, 0.5f, 0.0f});
  step.top_k.value = one_of({0, 0, 1, 50, vocab, 100000});
  step.min_p.value = one_of({0.0f, 0.0f, 0.05f, 1.0f});
  step.seed = {seeds.data(), 0};
  step.position = {positions.data(), 0};
  if (!pick(4)) step.bias = bias.data();
  if (!pick(4)) {
    step.token_bitmask = token_bitmask.data();
    step.token_bitmask_row_stride = (vocab + 31) / 32;
  }
  step.conservative_top_p.value = one_of({0.9f, 0.5f, 1.0f});
  if (models == 3 && !pick(2)) {
    step.conservative = 1 + int(pick(3));
    step.conservative_drop = int(pick(2));
    step.weights[1].value = 1.0f;
    step.weights[2].value = -step.weights[0].value;
  }

  const bool details = pick(2);
  Results want(rows, models, top), got(rows, models, top);
  want.into(step, details, top);
  CHECK(eft_step_cpu(&step, EFT_ISA_PORTABLE, 1) == EFT_OK);
  got.into(step, details, top);
  eft_host_launch how = {number, int32_t(pick(3)), int32_t(1u << pick(4)), int32_t(pick(2))};
  int code = eft_step_host(&step, &how);
  if (code == EFT_UNSUPPORTED) {
    how.kernel = EFT_HOST_STREAMING;
    code = eft_step_host(&step, &how);
  }
  if (code != EFT_OK)
    fprintf(stderr, "problem %llu: %s\n", (unsigned long long)number, eft_last_error());
  CHECK(code == EFT_OK);
  CHECK(got.tokens == want.tokens && got.kept == want.kept && got.status == want.status);
  CHECK(got.top_ids == want.top_ids);

  if (step.conservative) return;
  how.kernel = EFT_HOST_STREAMING;  // which alone writes the mixture
  std::vector<float> z(size_t(rows) * vocab), own(z.size());
  CHECK(eft_combine_cpu(&step, z.data(), vocab, EFT_ISA_PORTABLE) == EFT_OK);
  CHECK(eft_combine_host(&step, own.data(), vocab, &how) == EFT_OK);
  for (size_t i = 0; i < z.size(); ++i) CHECK(own[i] == z[i] || (own[i] != own[i] && z[i] != z[i]));
}

}  // namespace

int main(int count, char** arguments) {
  const int problems = count > 1 ? atoi(arguments[1]) : 150;
  for (int i = 0; i < problems; ++i) one_problem(uint64_t(i));
  printf("cuda step on the host: %d failures\n", failures);
  return failures != 0;
}
