// Memory for one thread's work on one row. It is kept per thread and grows, so the steady state
// allocates nothing.
#ifndef EFT_CPU_SCRATCH_H_
#define EFT_CPU_SCRATCH_H_

#include <stdint.h>
#include <stdlib.h>

#include <memory>

namespace eft {

// Maxima are kept for groups of 16 tokens: lane l of a chunk holds tokens l, l + 16, ... of its
// 256. So a chunk's maxima are sixteen lane-wise ones, without a reduction across lanes.
constexpr int kLanes = 16;
constexpr int kChunk = 256;

constexpr int64_t padded(int64_t n) { return (n + kChunk - 1) / kChunk * kChunk; }

constexpr int kListPadding = 128;  // whole steps of a list may be read and written

// One row of scaled logits and its summary by groups of 16 and tiles of 1024 tokens.
struct Row {
  float* t;               // [padded(n)], -inf where excluded and past the end
  float* group_max;       // [padded(n) / 16]
  float* tile_max;        // [ceil(n / 1024)]
  float* tile_reference;  // [ceil(n / 1024)], a_T = floor(tile_max)
  uint64_t* tile_mass;    // [ceil(n / 1024)], W_T
  int64_t n;
  float max_t;
  float reference;  // A
  bool valid;       // no NaN, no +inf, something left
};

// Some of a row's tokens by ascending id, among which a filter looks for its cutoff.
struct TokenList {
  float* t;      // [n + padding]
  float* share;  // [n + padding], of the mass at `reference`, where weighed
  uint32_t* id;  // [n + padding]
  int64_t count;
  float reference;
};

class Scratch {
 public:
  // Bytes for rows of n tokens. Row 0 is the mixture's. Row 1 is a second one (the defining model
  // of conservative re-weighting, or a verification's draft model). Row 2 has tiles alone.
  static uint64_t bytes(int64_t n);
  bool reserve(int64_t n);  // false when out of memory
  Row row(int which, int64_t n);
  TokenList token_list();
  float* maxima() { return maxima_.get(); }    // [ceil(n / 1024)], for selecting among them
  uint64_t* above() { return above_.get(); }   // [ceil(n / 1024)], tile masses above a cut
  float* staging() { return staging_.get(); }  // [6][1024] fp32, staged inputs, bias and mask

  int threads = 1;  // that may share this row's work; 0: the pool's own number

 private:
  // Aligned to cache lines: a 64-byte access that straddles two of them counts twice.
  struct Free {
    void operator()(void* p) const { ::free(p); }
  };
  template <class T>
  using Array = std::unique_ptr<T[], Free>;

  int64_t capacity_ = 0;
  Array<float> t_[2], group_max_[2], tile_max_[3], tile_reference_[3], maxima_, staging_, list_t_,
      list_share_;
  Array<uint64_t> tile_mass_[3];
  Array<uint64_t> above_;
  Array<uint32_t> list_id_;
};

}  // namespace eft
#endif  // EFT_CPU_SCRATCH_H_
