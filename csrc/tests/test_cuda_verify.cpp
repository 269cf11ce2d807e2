// The CUDA verification on the emulator beside the CPU's, under the sanitizers: every input and
// result in a buffer of exactly its size, at odd strides and addresses, all options.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <random>
#include <vector>

#include "emulator/kernels/step_on_host.h"
#include "tests/check.h"

namespace {

std::mt19937_64 random_bits(11);

unsigned pick(unsigned count) { return unsigned(random_bits() % count); }
template <class T>
T one_of(std::initializer_list<T> values) {
  return values.begin()[pick(unsigned(values.size()))];
}

// Exactly up to the end of the last row; the first row `shift` elements from an aligned address.
struct Buffer {
  std::vector<char> bytes;
  int64_t position_stride, row_stride;
  size_t shift;

  Buffer(int rows, int positions, int vocab, int dtype, int kind) {
    const size_t size = dtype == EFT_FP32 ? 4 : 2;
    position_stride = vocab + one_of({0, 0, 1, 7});
    row_stride = position_stride * positions + one_of({0, 0, 3});
    shift = size * one_of({0u, 0u, 1u, 3u});
    const int64_t count = row_stride * (rows - 1) + position_stride * (positions - 1) + vocab;
    bytes.resize(shift + size_t(count) * size);
    for (int64_t i = 0; i < count; ++i) {
      const float noise = float(int(pick(2048)) - 1024) / 256;
      float x = kind == 0 ? noise : kind == 1 ? float(int(pick(9)) - 4) : pick(50) ? noise : 9.0f;
      if (kind == 2 && !pick(200)) x = one_of({-INFINITY, -0x1.fep127f, 0.0f, -0.0f});
      uint32_t bits;
      memcpy(&bits, &x, 4);
      if (dtype == EFT_BF16) bits >>= 16;
      if (dtype == EFT_FP16) bits = pick(16) ? 0x3000u + pick(0x1800) : 0xb000u + pick(0x4c00);
      memcpy(&bytes[shift + size_t(i) * size], &bits, size);
    }
  }
  const void* data() const { return bytes.data() + shift; }
};

struct Results {
  std::vector<int64_t> tokens, accepted;
  std::vector<int32_t> status;
  Results(size_t rows, size_t positions)
      : tokens(rows * positions, -7), accepted(rows, -7), status(rows, -7) {}
  void into(eft_verify& v) {
    v.tokens = tokens.data();
    v.num_accepted = accepted.data();
    v.status = status.data();
  }
};

void one_problem(uint64_t number) {
  const int models = 1 + int(pick(4)), rows = 1 + int(pick(3)), k = int(pick(5));
  const int vocab = one_of({1, 2, 31, 33, 255, 1023, 1024, 1025, 2500});
  const int same = one_of<int>({-1, EFT_BF16, EFT_BF16, EFT_FP16, EFT_FP32});
  const auto dtype = [&] { return same < 0 ? one_of<int>({EFT_BF16, EFT_FP16, EFT_FP32}) : same; };
  eft_verify v{};
  v.step.num_rows = rows;
  v.step.vocab_size = vocab;
  v.step.num_models = models;
  std::vector<Buffer> x;
  for (int m = 0; m < models; ++m) {
    const int own = dtype();
    x.emplace_back(rows, k + 1, vocab, own, int(pick(3)));
    v.step.logits[m] = {x[m].data(), x[m].row_stride, own};
    v.logits_position_stride[m] = x[m].position_stride;
    v.step.weights[m] = {nullptr, 0, m ? one_of({0.0f, 0.25f, -0.5f}) : 1.0f};
  }
  // The mixture's first model drafts, or one of its own.
  const int own = dtype();
  const Buffer alone(rows, std::max(k, 1), vocab, own, int(pick(3)));
  const bool shares = pick(3);
  v.draft_logits = shares ? v.step.logits[0] : eft_logits{alone.data(), alone.row_stride, own};
  v.draft_position_stride = shares ? x[0].position_stride : alone.position_stride;
  v.num_drafts = k;
  std::vector<int64_t> drafts, lengths, seeds, positions;
  for (int i = 0; i < rows * k; ++i) drafts.push_back(pick(30) ? int64_t(pick(vocab)) : -1);
  for (int r = 0; r < rows; ++r) {
    lengths.push_back(pick(3) ? k : int64_t(pick(k + 1)));
    seeds.push_back(int64_t(random_bits()));
    positions.push_back(pick(9));
  }
  v.drafts = drafts.data();
  v.lengths = {lengths.data(), 0};
  std::vector<float> heat(rows), bias(vocab, 0.25f);
  for (float& t : heat) t = one_of({0.0f, 0.3f, 1.0f, 5.0f});
  v.step.temperature = {pick(3) ? nullptr : heat.data(), 1, one_of({1.0f, 1.0f, 0.7f, 0.0f})};
  if (v.step.temperature.rows) v.step.temperature.value = 1.0f;
  v.draft_temperature.value = one_of({1.0f, 0.7f, 0.0f});
  v.step.top_p.value = one_of({1.0f, 0.9f, 0.5f});
  v.draft_top_p.value = one_of({1.0f, 0.9f});
  v.step.top_k.value = one_of({0, 0, 1, 50});
  v.draft_top_k.value = one_of({0, 0, 50});
  v.step.min_p.value = one_of({0.0f, 0.05f});
  v.step.seed = {seeds.data(), 0};
  v.step.position = {positions.data(), 0};
  const int words = (vocab + 31) / 32, mask_positions = 1 + int(pick(2)) * k;
  std::vector<int32_t> token_bitmask(size_t(rows) * mask_positions * words);
  for (int32_t& word : token_bitmask) word = int32_t(random_bits());
  if (!pick(4)) v.step.bias = bias.data();
  if (!pick(4)) {
    v.step.token_bitmask = token_bitmask.data();
    v.step.token_bitmask_row_stride = int64_t(mask_positions) * words;
    v.token_bitmask_position_stride = mask_positions > 1 ? words : 0;
  }
  v.step.conservative_top_p.value = one_of({0.9f, 0.5f, 1.0f});
  if (models == 3 && !pick(2)) {
    v.step.conservative = 1 + int(pick(3));
    v.step.conservative_drop = int(pick(2));
    v.step.weights[1].value = 1.0f;
    v.step.weights[2].value = -v.step.weights[0].value;
  }

  Results want(rows, k + 1), got(rows, k + 1);
  want.into(v);
  CHECK(eft_verify_cpu(&v, EFT_ISA_PORTABLE, 1) == EFT_OK);
  got.into(v);
  const eft_host_launch how = {number, pick(3) ? EFT_HOST_STREAMING : EFT_HOST_CHOSEN,
                               int32_t(1 + pick(4)), 1};
  const int code = eft_verify_host(&v, &how);
  if (code != EFT_OK)
    fprintf(stderr, "problem %llu: %s\n", (unsigned long long)number, eft_last_error());
  CHECK(code == EFT_OK);
  CHECK(got.tokens == want.tokens && got.accepted == want.accepted && got.status == want.status);
}

}  // namespace

int main(int count, char** arguments) {
  const int problems = count > 1 ? atoi(arguments[1]) : 120;
  for (int i = 0; i < problems; ++i) one_problem(uint64_t(i));
  printf("cuda verification on the host: %d failures\n", failures);
  return failures != 0;
}
