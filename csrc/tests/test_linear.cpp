// A linear layer through the C interface: sums in double as the reference, exact buffers (for the
// sanitizers), the same bits for a row alone, every error code.
#include <math.h>
#include <string.h>

#include <vector>

#include "common/dtype.h"
#include "eft_layers.h"
#include "tests/check.h"

namespace {

template <class T>
T made(int i) {
  const float x = float((i * 7919) % 401 - 200) / 128.0f;  // exact in every dtype
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {
    T value{};
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      value.bits = uint16_t(bits);
      if (eft::to_float(value) == x) break;
    }
    return value;
  }
}

template <class T>
std::vector<T> some(int count, int seed) {
  static std::vector<T> values;
  for (int i = int(values.size()); i < 401; ++i) values.push_back(made<T>(i));
  std::vector<T> found;
  for (int i = 0; i < count; ++i)
    found.push_back(values[size_t((i * 31 + seed * 17 + i / 9) % 401)]);
  return found;
}

template <class T>
void products(int dtype, int isa, int rows, int features, int outputs) {
  const std::vector<T> x = some<T>(rows * features, 1), weight = some<T>(outputs * features, 2);
  const std::vector<T> bias = some<T>(outputs, 3);
  std::vector<T> y(size_t(rows * outputs)), alone(size_t(outputs), T{});
  eft_linear l = {rows, features, outputs, dtype, x.data(), weight.data(), bias.data(), y.data()};
  CHECK(eft_linear_cpu(&l, isa, 2) == EFT_OK);
  const double rounding = dtype == EFT_BF16 ? 0x1p-8 : dtype == EFT_FP16 ? 0x1p-11 : 0x1p-24;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < outputs; ++j) {
      double want = double(eft::to_float(bias[size_t(j)])), size = fabs(want);
      for (int k = 0; k < features; ++k) {
        const double product = double(eft::to_float(x[size_t(i * features + k)])) *
                               double(eft::to_float(weight[size_t(j * features + k)]));
        want += product;
        size += fabs(product);
      }
      const double error = fabs(double(eft::to_float(y[size_t(i * outputs + j)])) - want);
      CHECK(error <= (2 * features + 6) * 0x1p-24 * size * 1.01 + rounding * fabs(want));
    }
  }
  l.num_rows = 1;
  l.y = alone.data();
  for (int i = 0; i < rows; ++i) {
    l.x = x.data() + i * features;
    CHECK(eft_linear_cpu(&l, isa, 1) == EFT_OK);
    CHECK(!memcmp(alone.data(), y.data() + i * outputs, alone.size() * sizeof(T)));
  }
}

void errors() {
  float one = 1.0f, y = 0.0f;
  const eft_linear good = {1, 1, 1, EFT_FP32, &one, &one, nullptr, &y};
  CHECK(eft_linear_cpu(&good, EFT_ISA_AUTO, 1) == EFT_OK && y == 1.0f);
  CHECK(eft_linear_cpu(nullptr, EFT_ISA_AUTO, 1) == EFT_BAD_ARGUMENT);
  CHECK(!strcmp(eft_last_error(), "linear: null"));
  eft_linear bad = good;
  bad.num_rows = 0;
  CHECK(eft_linear_cpu(&bad, EFT_ISA_AUTO, 1) == EFT_BAD_ARGUMENT);
  bad = good;
  bad.dtype = 3;
  CHECK(eft_linear_cpu(&bad, EFT_ISA_AUTO, 1) == EFT_BAD_ARGUMENT);
  CHECK(!strcmp(eft_last_error(), "dtype: expected bf16, fp16 or fp32, got 3"));
  bad = good;
  bad.weight = nullptr;
  CHECK(eft_linear_cpu(&bad, EFT_ISA_AUTO, 1) == EFT_BAD_ARGUMENT);
  CHECK(eft_linear_cpu(&good, EFT_ISA_AVX512 + 1, 1) == EFT_UNSUPPORTED);
  CHECK(eft_linear_cpu(&good, -1, 1) == EFT_UNSUPPORTED);
}

}  // namespace

int main() {
  for (int isa = EFT_ISA_PORTABLE; isa <= eft_cpu_best_isa(); ++isa) {
    for (int rows : {1, 2, 7, 70}) {
      for (int features : {1, 33, 64, 549}) {
        products<float>(EFT_FP32, isa, rows, features, 5);
        products<eft::Bf16>(EFT_BF16, isa, rows, features, 6);
        products<eft::Fp16>(EFT_FP16, isa, rows, features, 3);
      }
    }
  }
  errors();
  printf("linear: %d failures\n", failures);
  return failures != 0;
}
