// Verification through the C interface: no access outside the buffers, the same tokens from every
// instruction set, errors that name the field.
#include <math.h>
#include <stdlib.h>

#include <string>
#include <vector>

#include "eft.h"
#include "tests/check.h"

namespace {

constexpr int kRows = 3, kDrafts = 4, kPositions = kDrafts + 1;

// Every buffer is exactly as long as it has to be, so that a step outside it is a sanitizer report.
struct Problem {
  std::vector<std::vector<float>> x;
  std::vector<float> q;
  std::vector<int64_t> drafts, lengths, tokens, accepted;
  std::vector<int32_t> status, token_bitmask;
  eft_verify v{};

  Problem(int vocab, int models, unsigned seed) {
    srand(seed);
    const auto noise = [](float& value) { value = float(rand()) / float(RAND_MAX) * 6.0f - 3.0f; };
    v.step.num_rows = kRows;
    v.step.vocab_size = vocab;
    v.step.num_models = models;
    x.resize(models);
    for (int k = 0; k < models; ++k) {
      x[k].resize(size_t(kRows) * kPositions * vocab);
      for (float& value : x[k]) noise(value);
      v.step.logits[k] = {x[k].data(), int64_t(kPositions) * vocab, EFT_FP32};
      v.logits_position_stride[k] = vocab;
      v.step.weights[k] = {nullptr, 0, k == 2 ? -0.5f : 0.5f};
    }
    q.resize(size_t(kRows) * kDrafts * vocab);
    for (float& value : q) noise(value);
    v.draft_logits = {q.data(), int64_t(kDrafts) * vocab, EFT_FP32};
    v.draft_position_stride = vocab;
    v.step.temperature.value = v.step.top_p.value = v.step.conservative_top_p.value = 1.0f;
    v.draft_temperature.value = v.draft_top_p.value = 1.0f;
    v.step.seed.value = seed;
    v.num_drafts = kDrafts;
    for (int i = 0; i < kRows * kDrafts; ++i) drafts.push_back(rand() % vocab);
    lengths = {kDrafts, 0, 2};
    v.drafts = drafts.data();
    v.lengths = {lengths.data(), 0};
    tokens.resize(kRows * kPositions), accepted.resize(kRows), status.resize(kRows);
    v.tokens = tokens.data();
    v.num_accepted = accepted.data();
    v.status = status.data();
  }
};

void every_option_stays_in_its_buffers() {
  for (int vocab : {1, 2, 31, 255, 256, 257, 1000, 1024, 1025, 2500}) {
    for (int option = 0; option < 8; ++option) {
      Problem p(vocab, 3, unsigned(vocab + option));
      p.v.step.temperature.value = option == 0 ? 0.0f : 0.8f;
      p.v.draft_temperature.value = option == 1 ? 0.0f : 1.1f;
      p.v.step.top_p.value = option == 2 ? 0.9f : 1.0f;
      p.v.draft_top_p.value = option == 3 ? 0.7f : 1.0f;
      p.v.step.top_k.value = option == 4 ? 3 : 0;
      p.v.draft_min_p.value = option == 5 ? 0.1f : 0.0f;
      p.v.step.conservative = option == 6 ? 2 : 0;
      p.v.step.conservative_top_p.value = 0.5f;
      const int words = (vocab + 31) / 32;
      if (option == 7) {
        p.token_bitmask.assign(size_t(kRows) * kPositions * words, 0x7bdef7bd);
        p.v.step.token_bitmask = p.token_bitmask.data();
        p.v.step.token_bitmask_row_stride = kPositions * words;
        p.v.token_bitmask_position_stride = words;
      }
      std::vector<int64_t> first;
      for (int isa = EFT_ISA_PORTABLE; isa <= eft_cpu_best_isa(); ++isa) {
        CHECK(eft_verify_cpu(&p.v, isa, 0) == EFT_OK);
        if (first.empty()) first = p.tokens;
        CHECK(first == p.tokens);
      }
      for (int row = 0; row < kRows; ++row) {
        const int64_t n = p.accepted[row];
        CHECK(p.status[row] == 0 && n >= 0 && n <= p.lengths[row]);
        for (int i = 0; i < kPositions; ++i) {
          const int64_t token = p.tokens[row * kPositions + i];
          CHECK(i <= n ? token >= 0 && token < vocab : token == -1);
          if (i < n) CHECK(token == p.drafts[row * kDrafts + i]);
        }
      }
    }
  }
}

void certain_drafts_need_no_logits() {
  Problem p(300, 1, 3);
  p.v.draft_logits.data = nullptr;
  CHECK(eft_verify_cpu(&p.v, 0, 0) == EFT_BAD_ARGUMENT);
  p.v.draft_temperature.value = 0.0f;
  CHECK(eft_verify_cpu(&p.v, 0, 0) == EFT_OK && p.status[0] == 0);
}

void without_drafts_it_is_a_step() {
  for (float temperature : {0.0f, 0.8f}) {
    Problem p(1500, 3, 9);
    p.v.step.temperature.value = temperature;
    p.v.num_drafts = 0;
    p.v.drafts = nullptr;
    p.v.draft_logits.data = nullptr;
    p.v.lengths = {nullptr, 0};
    CHECK(eft_verify_cpu(&p.v, 0, 0) == EFT_OK);
    int64_t tokens[kRows];
    p.v.step.tokens = tokens;
    CHECK(eft_step_cpu(&p.v.step, 0, 0) == EFT_OK);
    for (int row = 0; row < kRows; ++row) {
      CHECK(p.status[row] == 0 && p.accepted[row] == 0 && p.tokens[row] == tokens[row]);
    }
    p.v.lengths = {nullptr, 1};
    CHECK(eft_verify_cpu(&p.v, 0, 0) == EFT_OK && p.status[0] == 1 && p.tokens[0] == -1);
  }
}

void bad_rows_are_marked() {
  Problem p(50, 2, 5);
  p.lengths = {kDrafts + 1, kDrafts, -1};
  p.v.lengths.rows = p.lengths.data();
  p.drafts[kDrafts] = 50;
  CHECK(eft_verify_cpu(&p.v, 0, 0) == EFT_OK);
  for (int row = 0; row < kRows; ++row) {
    CHECK(p.status[row] == 1 && p.accepted[row] == 0 && p.tokens[row * kPositions] == -1);
  }
}

void errors_name_the_field() {
  const auto says = [](const char* word) {
    return std::string(eft_last_error()).find(word) != std::string::npos;
  };
  CHECK(eft_verify_cpu(nullptr, 0, 0) == EFT_BAD_ARGUMENT && says("verify"));
  Problem p(10, 1, 1);
  p.v.num_drafts = -1;
  CHECK(eft_verify_cpu(&p.v, 0, 0) == EFT_BAD_ARGUMENT && says("num_drafts"));
  p.v.num_drafts = kDrafts;
  p.v.drafts = nullptr;
  CHECK(eft_verify_cpu(&p.v, 0, 0) == EFT_BAD_ARGUMENT && says("drafts"));
  p.v.drafts = p.drafts.data();
  p.v.draft_logits.dtype = 7;
  CHECK(eft_verify_cpu(&p.v, 0, 0) == EFT_BAD_ARGUMENT && says("draft_logits.dtype"));
  p.v.draft_logits.dtype = EFT_FP32;
  CHECK(eft_verify_cpu(&p.v, 99, 0) == EFT_UNSUPPORTED && says("isa"));
  if (!eft_cuda_built()) {
    CHECK(eft_verify_cuda(&p.v, nullptr, nullptr, 0) == EFT_UNSUPPORTED &&
          says("built without CUDA"));
  } else {
    CHECK(eft_verify_cuda(&p.v, nullptr, nullptr, 0) == EFT_BAD_ARGUMENT && says("workspace"));
    p.v.num_drafts = 1536;
    CHECK(eft_verify_cuda(&p.v, nullptr, nullptr, 0) == EFT_UNSUPPORTED && says("num_drafts"));
  }
  p.v.status = nullptr;
  CHECK(eft_verify_cpu(&p.v, 0, 0) == EFT_BAD_ARGUMENT && says("status"));
}

}  // namespace

int main() {
  every_option_stays_in_its_buffers();
  certain_drafts_need_no_logits();
  without_drafts_it_is_a_step();
  bad_rows_are_marked();
  errors_name_the_field();
  printf("verify: %d failures\n", failures);
  return failures != 0;
}
