// The step through the C interface, as another language would call it: exact buffers on the heap,
// so that a read or write past an end is a sanitizer report, and every error code.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "eft.h"
#include "tests/check.h"

namespace {

// A buffer with bands of a pattern before and after it. `intact` is true if nothing was written
// into them, also in a build without sanitizers.
template <class T>
class Guarded {
 public:
  explicit Guarded(size_t n) : n_(n), bytes_(n * sizeof(T) + 2 * kBand, kPattern) {}
  T* data() { return reinterpret_cast<T*>(bytes_.data() + kBand); }
  T& operator[](size_t i) { return data()[i]; }
  bool intact() const {
    for (size_t i = 0; i < kBand; ++i) {
      if (bytes_[i] != kPattern || bytes_[bytes_.size() - 1 - i] != kPattern) return false;
    }
    return true;
  }
  // True if every element was written: no result is the pattern.
  bool written() {
    for (size_t i = 0; i < n_ * sizeof(T); i += sizeof(T)) {
      size_t same = 0;
      for (size_t j = 0; j < sizeof(T); ++j) same += bytes_[kBand + i + j] == kPattern;
      if (same == sizeof(T)) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kBand = 256;
  static constexpr unsigned char kPattern = 0xa5;
  size_t n_;
  std::vector<unsigned char> bytes_;
};

struct Problem {
  std::vector<std::vector<float>> x;
  std::vector<int64_t> tokens;
  std::vector<float> logprobs, raw, model, entropy, top_logprobs;
  std::vector<int32_t> num_kept, status;
  std::vector<int64_t> top_ids;
  eft_step step{};

  Problem(int rows, int vocab, int models, int num_top, unsigned seed) {
    srand(seed);
    step.num_rows = rows;
    step.vocab_size = vocab;
    step.num_models = models;
    x.resize(models);
    for (int k = 0; k < models; ++k) {
      x[k].resize(size_t(rows) * vocab);
      for (float& v : x[k]) v = float(rand()) / float(RAND_MAX) * 20.0f - 10.0f;
      step.logits[k] = {x[k].data(), vocab, EFT_FP32};
      step.weights[k] = {nullptr, 0, k == 2 ? -1.0f : 1.0f};
    }
    step.temperature.value = step.top_p.value = step.conservative_top_p.value = 1.0f;
    step.seed.value = 7;
    tokens.resize(rows);
    logprobs.resize(rows), raw.resize(rows), entropy.resize(rows), num_kept.resize(rows),
        status.resize(rows);
    model.resize(size_t(rows) * models);
    top_ids.resize(size_t(rows) * num_top), top_logprobs.resize(size_t(rows) * num_top);
    step.tokens = tokens.data();
    step.details = {logprobs.data(),     raw.data(),      model.data(),
                    entropy.data(),      num_kept.data(), top_ids.data(),
                    top_logprobs.data(), status.data(),   num_top};
  }
};

void every_option_stays_in_its_buffers() {
  for (int vocab : {1, 2, 31, 63, 64, 65, 1000, 1023, 1024, 1025, 2500}) {
    for (int models = 1; models <= 4; ++models) {
      Problem p(3, vocab, models, 3, unsigned(vocab * models));
      for (int option = 0; option < 6; ++option) {
        p.step.temperature.value = option == 0 ? 0.0f : 0.8f;
        p.step.top_p.value = option == 1 || option == 5 ? 0.9f : 1.0f;
        p.step.min_p.value = option == 2 || option == 5 ? 0.1f : 0.0f;
        p.step.top_k.value = option == 3 ? 5 : option == 5 ? vocab / 2 : 0;
        p.step.conservative = option == 4 && models == 3 ? 2 : 0;
        p.step.conservative_top_p.value = 0.5f;
        CHECK(eft_step_cpu(&p.step, EFT_ISA_AUTO, 0) == EFT_OK);
        for (int row = 0; row < 3; ++row) {
          CHECK(p.tokens[row] >= 0 && p.tokens[row] < vocab && p.status[row] == 0);
          CHECK(p.num_kept[row] >= 1 && p.num_kept[row] <= vocab && p.logprobs[row] <= 1e-6f);
        }
      }
    }
  }
}

// Rows of bf16, fp16 and fp32 at odd strides, and everything that a step can write.
void nothing_is_written_outside_the_results() {
  constexpr int kRows = 3;
  for (int vocab : {1, 31, 257, 1024, 1025, 3000}) {
    for (int top : {0, 1, 5, vocab + 2}) {
      Problem p(kRows, vocab + 3, 3, 0, unsigned(vocab));
      std::vector<uint16_t> half(size_t(kRows) * (vocab + 5));
      for (size_t i = 0; i < half.size(); ++i) half[i] = uint16_t(0x3000 + i * 37 % 0x1000);
      p.step.vocab_size = vocab;  // in rows of vocab + 3, and here of vocab + 5
      p.step.logits[1] = {half.data(), vocab + 5, EFT_FP16};
      p.step.logits[2] = {half.data(), vocab + 5, EFT_BF16};
      p.x[0][1] = vocab > 1 ? NAN : 0.0f;  // row 0 is invalid where it has a second token

      const size_t listed = size_t(kRows) * top;
      Guarded<int64_t> tokens(kRows), top_ids(listed);
      Guarded<float> logprobs(kRows), raw(kRows), model(3 * kRows), entropy(kRows);
      Guarded<float> top_logprobs(listed), z(size_t(kRows) * vocab);
      Guarded<int32_t> num_kept(kRows), status(kRows);
      p.step.tokens = tokens.data();
      p.step.details = {logprobs.data(),     raw.data(),      model.data(),
                        entropy.data(),      num_kept.data(), top_ids.data(),
                        top_logprobs.data(), status.data(),   top};
      const auto intact = [&] {
        return tokens.intact() && top_ids.intact() && logprobs.intact() && raw.intact() &&
               model.intact() && entropy.intact() && top_logprobs.intact() && num_kept.intact() &&
               status.intact() && z.intact();
      };
      for (int isa = EFT_ISA_PORTABLE; isa <= eft_cpu_best_isa(); ++isa) {
        for (float top_p : {1.0f, 0.9f}) {
          p.step.top_p.value = top_p;
          CHECK(eft_step_cpu(&p.step, isa, 1) == EFT_OK);
          CHECK(intact());
          CHECK(tokens.written() && top_ids.written() && num_kept.written() && status.written() &&
                logprobs.written() && raw.written() && model.written() && entropy.written() &&
                top_logprobs.written());
          CHECK(status[0] == (vocab > 1) && status[1] == 0 && status[2] == 0);
        }
        CHECK(eft_combine_cpu(&p.step, z.data(), vocab, isa) == EFT_OK);
        CHECK(intact() && z.written());
      }
      p.step.details = {};  // tokens alone
      CHECK(eft_step_cpu(&p.step, EFT_ISA_AUTO, 1) == EFT_OK && tokens.intact());
    }
  }
}

void instruction_sets_agree() {
  for (int vocab : {1, 100, 1025, 5000}) {
    for (int models = 1; models <= 4; ++models) {
      Problem p(4, vocab, models, 2, unsigned(vocab + models));
      p.step.top_p.value = 0.9f;
      CHECK(eft_step_cpu(&p.step, EFT_ISA_PORTABLE, 1) == EFT_OK);
      const std::vector<int64_t> tokens = p.tokens, top_ids = p.top_ids;
      const std::vector<int32_t> num_kept = p.num_kept;
      for (int isa = EFT_ISA_AVX2; isa <= eft_cpu_best_isa(); ++isa) {
        CHECK(eft_step_cpu(&p.step, isa, 1) == EFT_OK);
        CHECK(p.tokens == tokens && p.num_kept == num_kept && p.top_ids == top_ids);
      }
    }
  }
}

// Rows whose cutoffs are estimated from a sample: noise, and two values just below a power of two,
// above which the upper end of the estimate lies.
void instruction_sets_agree_on_wide_rows() {
  constexpr int kVocab = 20'000;
  Problem p(2, kVocab, 1, 0, 5);
  for (int i = 0; i < kVocab; ++i) {
    p.x[0][i] *= 0.1f;
    p.x[0][kVocab + i] = 7.9999f - (i % 3 == 0 ? 1e-4f : 0.0f);
  }
  p.step.temperature.value = 1.44269504f;
  for (int top_k : {0, 9'000}) {
    for (float top_p : {0.3f, 0.5f, 0.9f, 0.999f}) {
      p.step.top_k.value = top_k;
      p.step.top_p.value = top_p;
      CHECK(eft_step_cpu(&p.step, EFT_ISA_PORTABLE, 1) == EFT_OK);
      const std::vector<int64_t> tokens = p.tokens;
      const std::vector<int32_t> num_kept = p.num_kept;
      CHECK(tokens[0] >= 0 && tokens[1] >= 0);
      for (int isa = EFT_ISA_AVX2; isa <= eft_cpu_best_isa(); ++isa) {
        CHECK(eft_step_cpu(&p.step, isa, 1) == EFT_OK);
        CHECK(p.tokens == tokens && p.num_kept == num_kept);
      }
    }
  }
}

void invalid_rows_are_marked() {
  Problem p(3, 100, 1, 0, 1);
  p.x[0][50] = NAN;
  for (int i = 100; i < 200; ++i) p.x[0][i] = -INFINITY;
  CHECK(eft_step_cpu(&p.step, EFT_ISA_AUTO, 0) == EFT_OK);
  CHECK(p.tokens[0] == -1 && p.tokens[1] == -1 && p.tokens[2] >= 0);
  CHECK(p.status[0] == 1 && p.status[1] == 1 && p.status[2] == 0);
}

void masks_of_ragged_width() {
  for (int vocab : {1, 31, 32, 33, 1000}) {
    Problem p(2, vocab, 1, 0, 3);
    std::vector<int32_t> token_bitmask(size_t((vocab + 31) / 32) * 2, 0);
    token_bitmask[(vocab + 31) / 32] = 1;  // row 1: token 0 alone; row 0: nothing
    p.step.token_bitmask = token_bitmask.data();
    p.step.token_bitmask_row_stride = (vocab + 31) / 32;
    CHECK(eft_step_cpu(&p.step, EFT_ISA_AUTO, 0) == EFT_OK);
    CHECK(p.tokens[0] == -1 && p.tokens[1] == 0);
  }
}

void errors_name_the_field() {
  Problem p(1, 10, 1, 0, 1);
  const auto says = [](const char* word) {
    return std::string(eft_last_error()).find(word) != std::string::npos;
  };
  CHECK(eft_step_cpu(nullptr, 0, 0) == EFT_BAD_ARGUMENT && says("step"));
  p.step.num_rows = 0;
  CHECK(eft_step_cpu(&p.step, 0, 0) == EFT_BAD_ARGUMENT && says("num_rows"));
  p.step.num_rows = 1;
  p.step.vocab_size = 0;
  CHECK(eft_step_cpu(&p.step, 0, 0) == EFT_BAD_ARGUMENT && says("vocab_size"));
  p.step.vocab_size = 10;
  p.step.num_models = 5;
  CHECK(eft_step_cpu(&p.step, 0, 0) == EFT_BAD_ARGUMENT && says("num_models"));
  p.step.num_models = 1;
  p.step.logits[0].dtype = 9;
  CHECK(eft_step_cpu(&p.step, 0, 0) == EFT_BAD_ARGUMENT && says("dtype"));
  p.step.logits[0].dtype = EFT_FP32;
  CHECK(eft_step_cpu(&p.step, 99, 0) == EFT_UNSUPPORTED && says("isa"));
  p.step.tokens = nullptr;
  CHECK(eft_step_cpu(&p.step, 0, 0) == EFT_BAD_ARGUMENT && says("tokens"));
}

}  // namespace

int main() {
  every_option_stays_in_its_buffers();
  nothing_is_written_outside_the_results();
  instruction_sets_agree();
  instruction_sets_agree_on_wide_rows();
  invalid_rows_are_marked();
  masks_of_ragged_width();
  errors_name_the_field();
  printf("step: %d failures\n", failures);
  return failures != 0;
}
