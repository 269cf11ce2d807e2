// csrc/common: random bits, masses, fixed point, logarithms, number formats (numerics.md
// §3–§6).
#include "common/dtype.h"
#include "common/mass.h"
#include "common/philox.h"
#include "common/row_options.h"
#include "tests/check.h"

using namespace eft;

// Known answers published with the Random123 library for philox4x32-10.
void philox_known_answers() {
  const Philox zero = philox4x32_10({{0, 0, 0, 0}}, 0, 0);
  CHECK(zero.x[0] == 0x6627e8d5 && zero.x[1] == 0xe169c58d && zero.x[2] == 0xbc57ac4c &&
        zero.x[3] == 0x9b00dbd8);
  const uint32_t f = 0xffffffffu;
  const Philox ones = philox4x32_10({{f, f, f, f}}, f, f);
  CHECK(ones.x[0] == 0x408f276d && ones.x[1] == 0x41c83b0e && ones.x[2] == 0xa20bc7c6 &&
        ones.x[3] == 0x6d5451fd);
  const Philox pi =
      philox4x32_10({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0);
  CHECK(pi.x[0] == 0xd16cfe09 && pi.x[1] == 0x94fdcceb && pi.x[2] == 0x5001e420 &&
        pi.x[3] == 0x24126ea1);
}

void splitmix_known_answer() { CHECK(row_seed(1234567, 0) == 6457827717110365317u); }

// P(f) over all 2^24 + 1 multiples of 2^-24: monotone, below 2, within 1.5e-7 of 2^f.
void polynomial() {
  int32_t last = 0;
  double worst = 0;
  for (int i = 0; i <= 1 << 24; ++i) {
    const float f = float(i) * 0x1p-24f;
    const int32_t m = mantissa_mass(f);
    CHECK(m >= last && m >= 1 << 23 && m < 1 << 24);
    last = m;
    const double error = fabs(m * 0x1p-23 / exp2(double(f)) - 1);
    worst = error > worst ? error : worst;
  }
  CHECK(worst < 1.5e-7 + 0x1p-23);  // the polynomial, and the truncation to 24 bits
}

void masses() {
  CHECK(token_mass(0.0f, 0.0f) == uint64_t(1) << 40);
  CHECK(token_mass(-40.0f, 0.0f) == 1);
  CHECK(token_mass(-41.0f, 0.0f) == 0);
  CHECK(token_mass(-INFINITY, 0.0f) == 0);
  CHECK(tile_shift(100.0f, -INFINITY) == 63);
  CHECK(mass_target(kWhole, 12345) == 12345);
  CHECK(mass_target(kWhole / 2, 3) == 2);  // rounded up
  CHECK(mass_target(1, (uint64_t(1) << 59) + 1) == (uint64_t(1) << 27) + 1);
  CHECK(fixed_point(1.0f) == kWhole && fixed_point(0.5f) == kWhole / 2 - 1024);
  CHECK(fixed_point(0x1.fffffep-1f) == kWhole - 2048 - 256);
  CHECK(fixed_point(0.0f) == 0 && fixed_point(0x1p-149f) == 0);
}

void logarithms() {
  for (int e = -149; e < 100; ++e) CHECK(log2_exact_bits(ldexp(1.0, e)) == e);
  for (double x = 1e-6; x < 1e18; x *= 1.7)
    CHECK(fabs(log2_exact_bits(x) - log2(x)) <= 1e-15 * fmax(1, fabs(log2(x))));
}

void formats() {
  CHECK(to_float(Fp16{0x3c00}) == 1.0f && to_float(Fp16{0x0001}) == 0x1p-24f &&
        to_float(Fp16{0xfbff}) == -65504.0f);
  CHECK(to_float(Fp16{0x7c00}) == INFINITY && isnan(to_float(Fp16{0x7e00})) &&
        to_float(Fp16{0xfc00}) == -INFINITY);
  CHECK(to_float(Bf16{0x3f80}) == 1.0f && to_float(Bf16{0xff7f}) == Lowest<Bf16>::value);
}

int main() {
  philox_known_answers();
  splitmix_known_answer();
  polynomial();
  masses();
  logarithms();
  formats();
  printf("common: %d failures\n", failures);
  return failures != 0;
}
