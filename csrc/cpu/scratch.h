// What one thread needs to work on one row; kept per thread and grown, so the steady state
// allocates nothing.
#ifndef EFT_CPU_SCRATCH_H_
#define EFT_CPU_SCRATCH_H_

#include <stdint.h>

#include <memory>

namespace eft {

constexpr int kBlock =
    64;  // tokens per entry of the maxima: one cache line of bytes, four AVX-512 registers

// A token under consideration; `key` sorts by the rank: t descending, then id ascending.
struct Candidate {
  uint64_t key;
  uint64_t mass;
};

// One row of scaled logits and its summary by blocks of 64 and tiles of 1024 tokens.
struct Row {
  float* t;          // [n], excluded tokens are -inf
  float* block_max;  // [ceil(n / 64)]
  float*
      tile_reference;   // [ceil(n / 1024)], a_T = the largest floor(t); -inf where all are excluded
  uint64_t* tile_mass;  // [ceil(n / 1024)], W_T
  int64_t n;
  float max_t;
  float reference;  // A
  bool valid;       // no NaN, no +inf, something left
};

class Scratch {
 public:
  // Bytes for rows of n tokens. `Row rows[2]`: the step's own row and, where asked for, a second
  // one (the defining model of conservative re-weighting, or the unscaled mixture of the details).
  static uint64_t bytes(int64_t n);
  bool reserve(int64_t n);  // false when out of memory
  Row row(int which, int64_t n);
  Candidate* candidates() { return candidates_.get(); }
  float* values() { return values_.get(); }    // [ceil(n / 64)], for selecting among block maxima
  float* staging() { return staging_.get(); }  // [6][1024] fp32, staged inputs, bias and mask

 private:
  int64_t capacity_ = 0;
  std::unique_ptr<float[]> t_[2], block_max_[2], tile_reference_[2], values_, staging_;
  std::unique_ptr<uint64_t[]> tile_mass_[2];
  std::unique_ptr<Candidate[]> candidates_;
};

}  // namespace eft
#endif  // EFT_CPU_SCRATCH_H_
