// Scoring's CUDA kernels on the emulator beside the CPU's, under the sanitizers: every input and
// result in a buffer of exactly its size, at odd strides and addresses, all options, fields left
// out.
#include <math.h>
#include <stdlib.h>

#include <vector>

#include "emulator/kernels/score_on_host.h"
#include "tests/check.h"
#include "tests/random_inputs.h"

namespace {

struct Results {
  std::vector<double> lse;
  std::vector<float> logprobs, entropy, max_prob, log1m, squares, top_logprobs, tv, kl, up, down;
  std::vector<int64_t> argmax, rank, top_ids, up_ids, down_ids;
  std::vector<int32_t> status;
  Results(size_t rows, size_t d, size_t top, size_t changed)
      : lse(rows * d),
        logprobs(rows * d),
        entropy(rows * d),
        max_prob(rows * d),
        log1m(rows * d),
        squares(rows * d),
        top_logprobs(rows * d * top),
        tv(rows),
        kl(rows),
        up(rows * changed),
        down(rows * changed),
        argmax(rows * d, -7),
        rank(rows * d, -7),
        top_ids(rows * d * top, -7),
        up_ids(rows * changed, -7),
        down_ids(rows * changed, -7),
        status(rows, -7) {}
  eft_score_stats stats(int top, int changed) {
    return {lse.data(),      logprobs.data(),
            entropy.data(),  max_prob.data(),
            log1m.data(),    squares.data(),
            argmax.data(),   rank.data(),
            top_ids.data(),  top_logprobs.data(),
            tv.data(),       kl.data(),
            up_ids.data(),   up.data(),
            down_ids.data(), down.data(),
            status.data(),   top,
            changed};
  }
};

template <class T>
bool close(const std::vector<T>& got, const std::vector<T>& want) {
  for (size_t i = 0; i < got.size(); ++i) {
    const double a = double(got[i]), b = double(want[i]);
    if (a == b || (a != a && b != b) || fabs(a - b) <= 2e-6 + 1e-5 * fabs(b)) continue;
    fprintf(stderr, "%zu: %.9g is not %.9g\n", i, a, b);
    return false;
  }
  return true;
}

void one_problem(uint64_t number) {
  const int models = 1 + int(pick(4)), rows = 1 + int(pick(3));
  const int vocab = one_of({1, 2, 31, 33, 255, 1023, 1024, 1025, 2048, 2500, 4096});
  const int top = one_of({0, 0, 1, 5, vocab < 300 ? vocab + 2 : 9}), changed = one_of({0, 1, 4});
  const int same = one_of<int>({-1, EFT_BF16, EFT_BF16, EFT_FP16, EFT_FP32});
  eft_score score{};
  eft_step& step = score.mixture;
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
  std::vector<float> bias(vocab, 0.25f);
  std::vector<int32_t> token_bitmask(size_t(rows) * ((vocab + 31) / 32));
  for (int32_t& word : token_bitmask) word = int32_t(random_bits());
  std::vector<int64_t> targets(rows);
  for (int64_t& target : targets)
    target = pick(6) ? int64_t(pick(vocab)) : one_of({-100, -1, vocab});
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
  score.targets = targets.data();
  score.ignore_index = -100;
  score.compared = int(pick(models));

  Results want(rows, models + 1, top, changed), got(rows, models + 1, top, changed);
  score.stats = want.stats(top, changed);
  CHECK(eft_score_cpu(&score, EFT_ISA_PORTABLE, 1) == EFT_OK);
  score.stats = got.stats(top, changed);
  const bool compares = changed || pick(3);
  if (!compares) score.stats.tv = score.stats.kl = nullptr;
  const eft_host_launch how = {number, int32_t(pick(3)), int32_t(1u << pick(4)), 1};
  const int code = eft_score_host(&score, &how);
  if (code) fprintf(stderr, "problem %llu: %s\n", (unsigned long long)number, eft_last_error());
  CHECK(code == EFT_OK);
  CHECK(got.status == want.status && got.argmax == want.argmax && got.rank == want.rank);
  CHECK(got.top_ids == want.top_ids);
  CHECK(close(got.lse, want.lse) && close(got.logprobs, want.logprobs));
  CHECK(close(got.entropy, want.entropy) && close(got.max_prob, want.max_prob));
  CHECK(close(got.log1m, want.log1m) && close(got.squares, want.squares));
  CHECK(close(got.top_logprobs, want.top_logprobs));
  if (compares) CHECK(close(got.tv, want.tv) && close(got.kl, want.kl));
  for (int64_t id : got.up_ids) CHECK(id >= -1 && id < vocab);
  for (int64_t id : got.down_ids) CHECK(id >= -1 && id < vocab);

  Results one(rows, models + 1, 0, 0);  // a field alone
  score.stats = {};
  score.stats.rank = one.rank.data();
  CHECK(eft_score_host(&score, &how) == EFT_OK && one.rank == want.rank);
}

}  // namespace

int main(int count, char** arguments) {
  const int problems = count > 1 ? atoi(arguments[1]) : 150;
  for (int i = 0; i < problems; ++i) one_problem(uint64_t(i));
  printf("cuda score on the host: %d failures\n", failures);
  return failures != 0;
}
