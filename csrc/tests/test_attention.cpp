// Attention through the C interface: buffers that end where the last value does, every instruction
// set against a plain loop in double precision, every error code.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "eft_layers.h"
#include "tests/check.h"

namespace {

struct Problem {
  std::vector<float> q, k, v, out, mask;
  eft_attention a{};

  // k and v are [batch, slots, heads, dim]; a slot beyond a sequence's length holds NaN.
  Problem(int batch, int heads, int kv_heads, int queries, int slots, int dim, bool masked) {
    srand(unsigned(slots * 31 + dim));
    const auto fill = [](std::vector<float>& x, size_t n) {
      x.resize(n);
      for (float& value : x) value = float(rand() % 2001 - 1000) / 500.0f;
    };
    fill(q, size_t(batch) * heads * queries * dim);
    fill(k, size_t(batch) * slots * kv_heads * dim);
    fill(v, k.size());
    out.assign(q.size(), -1.0f);
    a = {batch,
         heads,
         kv_heads,
         queries,
         slots,
         dim,
         q.data(),
         k.data(),
         v.data(),
         out.data(),
         {heads * queries * dim, queries * dim, dim},
         {slots * kv_heads * dim, dim, kv_heads * dim},
         {slots * kv_heads * dim, dim, kv_heads * dim},
         {heads * queries * dim, dim, heads * dim},
         EFT_FP32,
         0.25f,
         nullptr,
         {queries * slots, 0, slots},
         EFT_FP32};
    if (!masked) return;
    mask.assign(size_t(batch) * queries * slots, -INFINITY);
    for (int b = 0; b < batch; ++b) {
      const int length = slots - slots / 3 * b;
      for (int i = 0; i < queries; ++i) {
        for (int s = 0; s < length - (queries - 1 - i); ++s) {
          mask[(size_t(b) * queries + i) * slots + s] = float(s % 3) / 8;
        }
      }
      for (size_t i = size_t(length) * kv_heads * dim; i < size_t(slots) * kv_heads * dim; ++i) {
        k[size_t(b) * slots * kv_heads * dim + i] = v[size_t(b) * slots * kv_heads * dim + i] = NAN;
      }
    }
    a.mask = mask.data();
  }

  double bias(int64_t b, int64_t i, int64_t s) const {
    return mask.empty() ? 0.0 : mask[size_t((b * a.num_queries + i) * a.num_slots + s)];
  }

  void compare() const {
    std::vector<double> weights(size_t(a.num_slots));
    for (int64_t b = 0; b < a.batch; ++b) {
      for (int64_t h = 0; h < a.num_heads; ++h) {
        const int64_t kv = h / (a.num_heads / a.num_kv_heads);
        for (int64_t i = 0; i < a.num_queries; ++i) {
          row(b, h, kv, i, weights);
        }
      }
    }
  }

 private:
  void row(int64_t b, int64_t h, int64_t kv, int64_t i, std::vector<double>& weights) const {
    const float* query = &q[size_t(b * a.q_strides[0] + h * a.q_strides[1] + i * a.q_strides[2])];
    const int64_t first = b * a.k_strides[0] + kv * a.k_strides[1];
    double mass = 0;
    for (int64_t s = 0; s < a.num_slots; ++s) {
      double score = 0;
      for (int64_t d = 0; d < a.head_dim; ++d) {
        score += double(query[d]) * k[size_t(first + s * a.k_strides[2] + d)];
      }
      const double added = bias(b, i, s);
      weights[size_t(s)] = added == -INFINITY ? 0.0 : exp(score * a.scale + added);
      mass += weights[size_t(s)];
    }
    for (int64_t d = 0; d < a.head_dim; ++d) {
      double sum = 0;
      for (int64_t s = 0; s < a.num_slots; ++s) {
        if (weights[size_t(s)] == 0.0) continue;
        sum += weights[size_t(s)] * v[size_t(first + s * a.v_strides[2] + d)];
      }
      const int64_t at = b * a.out_strides[0] + h * a.out_strides[1] + i * a.out_strides[2] + d;
      CHECK(fabs(out[size_t(at)] - sum / mass) < 1e-5);
    }
  }
};

void test_formula() {
  for (int isa = EFT_ISA_PORTABLE; isa <= eft_cpu_best_isa(); ++isa) {
    for (int dim : {1, 16, 19, 64, 72}) {
      for (int slots : {1, 6, 128, 150}) {
        for (int queries : {1, 5}) {
          Problem p(2, 4, 2, queries, slots, dim, slots >= 100);
          CHECK(eft_attention_cpu(&p.a, isa, 1) == EFT_OK);
          p.compare();
        }
      }
    }
  }
}

// Halves of 1 and of values that are exact in them: an average of equal values is that value.
void test_halves() {
  const uint16_t ones[2] = {0x3f80, 0x3c00};  // bf16, fp16
  for (int isa = EFT_ISA_PORTABLE; isa <= eft_cpu_best_isa(); ++isa) {
    for (int dtype : {EFT_BF16, EFT_FP16}) {
      std::vector<uint16_t> x(5 * 19, ones[dtype]), out(19, 0);
      std::vector<unsigned char> mask = {1, 0, 1, 1, 0};
      eft_attention a = {1,         1,           1,          1,         5,
                         19,        x.data(),    x.data(),   x.data(),  out.data(),
                         {0, 0, 0}, {0, 0, 19},  {0, 0, 19}, {0, 0, 0}, dtype,
                         1.0f,      mask.data(), {0, 0, 0},  EFT_BOOL};
      CHECK(eft_attention_cpu(&a, isa, 1) == EFT_OK);
      for (uint16_t value : out) CHECK(value == ones[dtype]);
      mask.assign(5, 0);
      CHECK(eft_attention_cpu(&a, isa, 1) == EFT_OK);
      for (uint16_t value : out) CHECK(value == 0);
    }
  }
}

template <class Change>
void refused(int code, const char* name, const Change& change) {
  Problem p(1, 4, 2, 1, 8, 16, true);
  change(p.a);
  CHECK(eft_attention_cpu(&p.a, EFT_ISA_AUTO, 1) == code);
  CHECK(strstr(eft_last_error(), name));
}

void test_errors() {
  refused(EFT_BAD_ARGUMENT, "queries", [](eft_attention& a) { a.num_queries = 0; });
  refused(EFT_BAD_ARGUMENT, "num_kv_heads", [](eft_attention& a) { a.num_kv_heads = 3; });
  refused(EFT_BAD_ARGUMENT, "head_dim", [](eft_attention& a) { a.head_dim = 1025; });
  refused(EFT_BAD_ARGUMENT, "k, v", [](eft_attention& a) { a.v = nullptr; });
  refused(EFT_BAD_ARGUMENT, "dtype", [](eft_attention& a) { a.dtype = EFT_BOOL; });
  refused(EFT_BAD_ARGUMENT, "mask_dtype", [](eft_attention& a) { a.mask_dtype = 4; });
  CHECK(eft_attention_cpu(nullptr, EFT_ISA_AUTO, 1) == EFT_BAD_ARGUMENT);
  Problem p(1, 1, 1, 1, 1, 1, false);
  CHECK(eft_attention_cpu(&p.a, 4, 1) == EFT_UNSUPPORTED);
  CHECK(eft_attention_cpu(&p.a, -1, 1) == EFT_UNSUPPORTED);
}

}  // namespace

int main() {
  test_formula();
  test_halves();
  test_errors();
  return failures != 0;
}
