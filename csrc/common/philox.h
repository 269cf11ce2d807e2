// The random bits of a draw (numerics.md §5): Philox4x32-10 (Salmon et al., SC 2011) and
// SplitMix64 (Steele et al., OOPSLA 2014). Both are counter-based, so a draw depends on (seed,
// position) alone and not on the batch.
#ifndef EFT_COMMON_PHILOX_H_
#define EFT_COMMON_PHILOX_H_

#include "common/portable.h"

namespace eft {
namespace {

struct Philox {
  uint32_t x[4];
};

EFT_HD Philox philox4x32_10(Philox counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * counter.x[0];
    const uint64_t b = uint64_t(0xCD9E8D57u) * counter.x[2];
    counter = {{uint32_t(b >> 32) ^ counter.x[1] ^ key0, uint32_t(b),
                uint32_t(a >> 32) ^ counter.x[3] ^ key1, uint32_t(a)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// What a draw is for; the counter's last word.
enum Purpose : uint32_t { kSample = 0, kAccept = 1, kResidual = 2 };

// 64 bits for a row's seed and position.
EFT_HD uint64_t random_bits(uint64_t seed, uint64_t position, uint32_t draw, Purpose purpose) {
  const Philox counter = {{uint32_t(position), uint32_t(position >> 32), draw, purpose}};
  const Philox out = philox4x32_10(counter, uint32_t(seed), uint32_t(seed >> 32));
  return uint64_t(out.x[1]) << 32 | out.x[0];
}

// The seed of a row (from 0) under one seed for the batch: the (row + 1)-th output of SplitMix64
// started at `seed`.
EFT_HD uint64_t row_seed(uint64_t seed, uint64_t row) {
  uint64_t z = seed + (row + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace
}  // namespace eft
#endif  // EFT_COMMON_PHILOX_H_
