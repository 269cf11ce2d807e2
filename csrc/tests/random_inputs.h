// Random inputs for the tests of kernels on the emulator.
#ifndef EFT_TESTS_RANDOM_INPUTS_H_
#define EFT_TESTS_RANDOM_INPUTS_H_

#include <math.h>
#include <string.h>

#include <initializer_list>
#include <random>
#include <vector>

#include "eft.h"

namespace {

std::mt19937_64 random_bits(7);

unsigned pick(unsigned count) { return unsigned(random_bits() % count); }
template <class T>
T one_of(std::initializer_list<T> values) {
  return values.begin()[pick(unsigned(values.size()))];
}

// Returns random logits; 16-bit dtypes get random bits, so that all of their values occur.
std::vector<char> logits(size_t count, int dtype, int kind) {
  std::vector<char> bytes(count * (dtype == EFT_FP32 ? 4 : 2));
  for (size_t i = 0; i < count; ++i) {
    const float noise = float(int(pick(2048)) - 1024) / 128;
    float x = kind == 0   ? noise
              : kind == 1 ? float(int(pick(9)) - 4)
              : kind == 2 ? (pick(50) ? noise / 4 : 20 + noise)
                          : noise * one_of({1e-40f, 1.0f, 1e4f, 1e30f});
    if (kind == 3 && !pick(9)) x = one_of({-INFINITY, -0x1.fep127f, 0.0f, -0.0f});
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (dtype == EFT_BF16) bits >>= 16;
    if (dtype == EFT_FP16) bits = pick(16) ? 0x3000u + pick(0x2000) : 0xb000u + pick(0x4c00);
    memcpy(&bytes[i * bytes.size() / count], &bits, bytes.size() / count);
  }
  return bytes;
}

}  // namespace
#endif  // EFT_TESTS_RANDOM_INPUTS_H_
