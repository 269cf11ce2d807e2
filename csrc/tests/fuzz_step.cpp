// libFuzzer over the C interface: any step whose buffers are as long as it says. Build with clang
// and -DEFT_TESTS=ON -DEFT_FUZZ=ON, then
//
//   build/ctest/csrc/tests/fuzz_step -max_total_time=600 corpus/
//
// The sanitizers find accesses outside a buffer, and undefined behaviour. The harness checks that
// tokens are within the vocabulary, that statuses and tokens agree, and that every instruction set
// draws the same.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "eft.h"

namespace {

// Reads the fuzzer's bytes; zeros past their end.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  template <class T>
  T take() {
    T value{};
    const size_t n = sizeof(T) < size_ ? sizeof(T) : size_;
    memcpy(&value, data_, n);
    data_ += n;
    size_ -= n;
    return value;
  }
  int below(int n) { return take<uint16_t>() % n; }

  // A heap buffer of exactly `bytes`: the rest of the input, repeated, from a place that the input
  // says.
  std::unique_ptr<uint8_t[]> fill(size_t bytes) {
    std::unique_ptr<uint8_t[]> out(new uint8_t[bytes]);
    const size_t start = take<uint8_t>();
    for (size_t i = 0; i < bytes; ++i) out[i] = size_ ? data_[(start + i) % size_] : 0;
    return out;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

void expect(bool condition) {
  if (!condition) abort();
}

struct Buffers {
  std::vector<std::unique_ptr<uint8_t[]>> kept;

  template <class T>
  T* filled(Input& in, size_t n) {
    kept.push_back(in.fill(n * sizeof(T)));
    return reinterpret_cast<T*>(kept.back().get());
  }
};

eft_real real(Input& in, Buffers& buffers, int64_t rows, float usual) {
  switch (in.below(4)) {
    case 0: return {nullptr, 0, usual};
    case 1: return {nullptr, 0, in.take<float>()};
    case 2: return {buffers.filled<float>(in, size_t(rows)), 1, 1.0f};
    default: return {buffers.filled<float>(in, size_t(rows) * 2), 2, -1.0f};
  }
}

eft_integer integer(Input& in, Buffers& buffers, int64_t rows) {
  switch (in.below(4)) {
    case 0: return {nullptr, 0};
    case 1: return {nullptr, in.below(300)};
    case 2: return {nullptr, in.take<int64_t>()};
    default: return {buffers.filled<int64_t>(in, size_t(rows)), 0};
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  Buffers buffers;
  eft_step step{};
  const int64_t rows = 1 + in.below(3);
  // From 8192 tokens on a row is sampled.
  const int widths[] = {1 + in.below(70), 1000 + in.below(60), 1 + in.below(3500),
                        8192 + in.below(1100)};
  const int64_t vocab = widths[in.below(4)];
  step.num_rows = rows;
  step.vocab_size = vocab;
  step.num_models = 1 + in.below(EFT_MAX_MODELS);
  for (int k = 0; k < step.num_models; ++k) {
    const int dtype = in.below(3);
    const int64_t stride = vocab + in.below(4);
    const size_t bytes = size_t((rows - 1) * stride + vocab) * (dtype == EFT_FP32 ? 4 : 2);
    step.logits[k] = {buffers.filled<uint8_t>(in, bytes), stride, dtype};
    step.weights[k] = real(in, buffers, rows, k == 2 ? -1.0f : 1.0f);
  }
  step.temperature = real(in, buffers, rows, 1.0f);
  step.top_k = integer(in, buffers, rows);
  step.top_p = real(in, buffers, rows, 0.9f);
  step.min_p = real(in, buffers, rows, 0.0f);
  step.seed = integer(in, buffers, rows);
  step.position = integer(in, buffers, rows);
  if (step.num_models == 3 && in.below(3) == 0) {
    step.conservative = 1 + in.below(3);
    step.conservative_drop = in.below(2);
    step.conservative_top_p = real(in, buffers, rows, 0.5f);
  }
  if (in.below(4) == 0) {
    step.bias_row_stride = in.below(2) ? vocab : 0;
    step.bias = buffers.filled<float>(in, size_t(step.bias_row_stride ? rows * vocab : vocab));
  }
  if (in.below(4) == 0) {
    step.token_bitmask_row_stride = (vocab + 31) / 32;
    step.token_bitmask = buffers.filled<int32_t>(in, size_t(rows * step.token_bitmask_row_stride));
  }

  const int num_top = in.below(3) ? 0 : in.below(int(vocab) + 3);
  const auto n = size_t(rows), listed = n * size_t(num_top);
  std::vector<int64_t> tokens(n), top_ids(listed), first_tokens, first_ids;
  std::vector<float> logprobs(n), raw(n), model(n * size_t(step.num_models)), entropy(n);
  std::vector<float> top_logprobs(listed);
  std::vector<int32_t> num_kept(n), status(n), first_num_kept;
  step.tokens = tokens.data();
  step.details = {logprobs.data(),     raw.data(),      model.data(),
                  entropy.data(),      num_kept.data(), top_ids.data(),
                  top_logprobs.data(), status.data(),   num_top};
  if (in.below(3) == 0) step.details = {};  // tokens alone
  // Sometimes a field is nonsense: then the call fails and reads nothing.
  switch (in.below(40)) {
    case 0: step.num_rows = -in.below(3); break;
    case 1: step.vocab_size = in.below(2) ? 0 : INT64_MAX; break;
    case 2: step.num_models = in.below(2) ? 0 : 5; break;
    case 3: step.logits[0].dtype = 3; break;
    case 4: step.logits[0].data = nullptr; break;
    case 5: step.conservative = 4; break;
    case 6: step.details.num_top = -1; break;
    case 7: step.tokens = nullptr; break;
  }

  for (int isa = EFT_ISA_PORTABLE; isa <= eft_cpu_best_isa(); ++isa) {
    const int code = eft_step_cpu(&step, isa, 1);
    expect(code == EFT_OK || *eft_last_error());
    if (code != EFT_OK) return 0;
    for (size_t row = 0; row < n; ++row) {
      expect(tokens[row] >= -1 && tokens[row] < vocab);
      if (!step.details.status) continue;
      expect(status[row] == (tokens[row] < 0));
      expect(status[row] ? num_kept[row] == 0 : num_kept[row] >= 1 && num_kept[row] <= vocab);
      expect(status[row] || logprobs[row] <= 0.0f);
      for (int i = 0; i < step.details.num_top; ++i) {
        const int64_t id = top_ids[row * size_t(num_top) + size_t(i)];
        expect(id >= -1 && id < vocab);
      }
    }
    if (isa == EFT_ISA_PORTABLE)
      first_tokens = tokens, first_num_kept = num_kept, first_ids = top_ids;
    expect(tokens == first_tokens && num_kept == first_num_kept && top_ids == first_ids);
  }
  std::vector<float> z(n * size_t(vocab));
  expect(eft_combine_cpu(&step, z.data(), vocab, EFT_ISA_AUTO) == EFT_OK);
  return 0;
}
