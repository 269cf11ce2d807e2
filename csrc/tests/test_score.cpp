// Scoring through the C interface: exact buffers with guard bands, each field alone and all
// together, the same bits from every instruction set, every error code.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "eft.h"
#include "tests/check.h"

namespace {

// A field's results between bands of a pattern.
class Field {
 public:
  explicit Field(size_t bytes) : bytes_(bytes + 2 * kBand, kPattern) {}
  void* data() { return bytes_.data() + kBand; }
  bool intact() const {
    for (size_t i = 0; i < kBand; ++i) {
      if (bytes_[i] != kPattern || bytes_[bytes_.size() - 1 - i] != kPattern) return false;
    }
    return true;
  }
  bool written() const {
    for (size_t i = kBand; i + 4 <= bytes_.size() - kBand; i += 4) {
      if (bytes_[i] == kPattern && !memcmp(&bytes_[i], &bytes_[i + 1], 3)) return false;
    }
    return true;
  }
  bool operator==(const Field& other) const { return bytes_ == other.bytes_; }

 private:
  static constexpr size_t kBand = 128;
  static constexpr unsigned char kPattern = 0xa5;
  std::vector<unsigned char> bytes_;
};

constexpr int kFields = 17;

struct Problem {
  std::vector<std::vector<uint16_t>> x;  // bf16
  std::vector<int64_t> targets;
  std::vector<Field> fields;
  eft_score score{};

  Problem(int rows, int vocab, int models, int top, int changed, int pad) {
    srand(unsigned(vocab * 31 + models));
    eft_step& m = score.mixture;
    m.num_rows = rows;
    m.vocab_size = vocab;
    m.num_models = models;
    x.resize(models);
    for (int k = 0; k < models; ++k) {
      x[k].resize(size_t(rows) * (vocab + pad));
      for (uint16_t& v : x[k]) v = uint16_t(0x3f00 + rand() % 0x200 + (rand() % 2) * 0x8000);
      m.logits[k] = {x[k].data(), vocab + pad, EFT_BF16};
      m.weights[k] = {nullptr, 0, k == 2 ? -1.0f : 1.0f};
    }
    m.conservative_top_p.value = 1.0f;
    targets.resize(rows);
    for (int b = 0; b < rows; ++b) targets[b] = rand() % vocab;
    score.targets = targets.data();
    score.ignore_index = -100;

    const size_t d = size_t(rows) * (models + 1), r = rows, n = top, c = changed;
    for (size_t bytes :
         {8 * d, 4 * d, 4 * d, 4 * d, 4 * d, 4 * d, 8 * d, 8 * d, 8 * d * n, 4 * d * n, 4 * r,
          4 * r, 8 * r * c, 4 * r * c, 8 * r * c, 4 * r * c, 4 * r}) {
      fields.emplace_back(bytes);
    }
    score.stats.num_top = top;
    score.stats.num_changed = changed;
    use((1 << kFields) - 1);
  }

  // Requests the fields of `mask`, in the struct's order.
  void use(int mask) {
    int i = 0;
    const auto next = [&](auto*& pointer) {
      using Element = std::remove_reference_t<decltype(*pointer)>;
      pointer = mask >> i & 1 ? static_cast<Element*>(fields[i].data()) : nullptr;
      ++i;
    };
    eft_score_stats& s = score.stats;
    next(s.lse), next(s.logprobs), next(s.entropy), next(s.max_prob), next(s.log1m_max);
    next(s.sum_squares), next(s.argmax), next(s.rank), next(s.top_ids), next(s.top_logprobs);
    next(s.tv), next(s.kl), next(s.up_ids), next(s.up_log_ratios), next(s.down_ids);
    next(s.down_log_ratios), next(s.status);
  }

  bool intact() const {
    for (const Field& field : fields) {
      if (!field.intact()) return false;
    }
    return true;
  }
  template <class T>
  T* at(int field) {
    return static_cast<T*>(fields[field].data());
  }
};

void everything_stays_in_its_buffers_and_agrees() {
  for (int vocab : {1, 2, 63, 64, 65, 1023, 1024, 1025, 2500}) {
    for (int models = 1; models <= EFT_MAX_MODELS; ++models) {
      Problem first(3, vocab, models, 4, 3, 5);
      first.score.compared = models - 1;
      CHECK(eft_score_cpu(&first.score, EFT_ISA_PORTABLE, 1) == EFT_OK);
      CHECK(first.intact());
      for (const Field& field : first.fields) CHECK(field.written());
      for (int isa = EFT_ISA_AVX2; isa <= eft_cpu_best_isa(); ++isa) {
        Problem other(3, vocab, models, 4, 3, 5);
        other.score.compared = models - 1;
        CHECK(eft_score_cpu(&other.score, isa, 1) == EFT_OK);
        CHECK(other.fields == first.fields);
      }
      for (int d = 0; d <= models; ++d) {
        CHECK(first.at<float>(1)[d] <= 0 && first.at<float>(3)[d] <= 1);
        CHECK(first.at<int64_t>(6)[d] == first.at<int64_t>(8)[d * 4]);  // argmax, top_ids
      }
    }
  }
}

void each_field_may_be_asked_for_alone() {
  Problem all(2, 1500, 3, 0, 0, 0);
  CHECK(eft_score_cpu(&all.score, EFT_ISA_AUTO, 1) == EFT_OK);
  for (int field : {0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 16}) {
    Problem one(2, 1500, 3, 0, 0, 0);
    one.use(1 << field);
    CHECK(eft_score_cpu(&one.score, EFT_ISA_AUTO, 1) == EFT_OK);
    CHECK(one.intact() && one.fields[field] == all.fields[field]);
  }
}

void rows_are_marked_one_by_one() {
  Problem p(5, 100, 2, 1, 1, 0);
  p.x[1][150] = 0x7fc0;  // NaN in row 1
  p.targets[2] = -100;
  p.targets[3] = 100;
  CHECK(eft_score_cpu(&p.score, EFT_ISA_AUTO, 0) == EFT_OK);
  const int32_t* status = p.at<int32_t>(16);
  const int32_t want[] = {0, 1, 2, 1, 0};
  for (int b = 0; b < 5; ++b) {
    CHECK(status[b] == want[b]);
    const float logprob = p.at<float>(1)[3 * b];
    CHECK(want[b] == 1 ? isnan(logprob) : want[b] == 2 ? logprob == 0 : logprob < 0);
    CHECK((p.at<int64_t>(7)[3 * b] == -1) == (want[b] != 0));
  }
}

void masks_and_bias_belong_to_the_mixture() {
  Problem p(1, 40, 1, 0, 0, 0);
  std::vector<int32_t> token_bitmask = {1 << 7, 0};
  p.score.mixture.token_bitmask = token_bitmask.data();
  p.score.mixture.token_bitmask_row_stride = 2;
  p.targets[0] = 7;
  CHECK(eft_score_cpu(&p.score, EFT_ISA_AUTO, 0) == EFT_OK);
  CHECK(p.at<float>(1)[1] == 0 && p.at<float>(1)[0] < 0);  // alone in the mixture, not in the model
  CHECK(p.at<float>(4)[1] == -INFINITY);
  token_bitmask[0] = 0;
  CHECK(eft_score_cpu(&p.score, EFT_ISA_AUTO, 0) == EFT_OK && p.at<int32_t>(16)[0] == 1);
  p.score.mixture.token_bitmask = nullptr;
  std::vector<float> bias(40, 0.0f);
  bias[7] = 1e4f;
  p.score.mixture.bias = bias.data();
  CHECK(eft_score_cpu(&p.score, EFT_ISA_AUTO, 0) == EFT_OK && p.at<float>(1)[1] == 0);
}

void errors_name_the_field() {
  Problem p(1, 10, 2, 1, 1, 0);
  const auto fails = [&](const char* word) {
    return eft_score_cpu(&p.score, 0, 0) == EFT_BAD_ARGUMENT &&
           std::string(eft_last_error()).find(word) != std::string::npos;
  };
  CHECK(eft_score_cpu(nullptr, 0, 0) == EFT_BAD_ARGUMENT);
  p.score.compared = 2;
  CHECK(fails("compared"));
  p.score.compared = 0;
  p.score.stats.top_ids = nullptr;
  CHECK(fails("num_top"));
  p.score.stats.num_top = 0;
  p.score.stats.up_ids = nullptr;
  CHECK(fails("num_changed"));
  p.score.stats.num_changed = 0;
  p.score.mixture.vocab_size = 0;
  CHECK(fails("vocab_size"));
  p.score.mixture.vocab_size = 10;
  p.score.targets = nullptr;
  CHECK(fails("targets"));
  p.score.targets = p.targets.data();
  CHECK(eft_score_cpu(&p.score, 99, 0) == EFT_UNSUPPORTED);
}

}  // namespace

int main() {
  everything_stays_in_its_buffers_and_agrees();
  each_field_may_be_asked_for_alone();
  rows_are_marked_one_by_one();
  masks_and_bias_belong_to_the_mixture();
  errors_name_the_field();
  printf("score: %d failures\n", failures);
  return failures != 0;
}
