// The n largest values of a row that is offered tile by tile; equal ones in the order of their ids.
#ifndef EFT_CPU_SCORE_TOP_N_H_
#define EFT_CPU_SCORE_TOP_N_H_

#include <vector>

#include "cpu/score_tile.h"

namespace eft {
namespace {

class TopN {
 public:
  struct Entry {
    float value;
    float other;  // kept for the caller
    int64_t id;
  };

  // Only values above `floor` count.
  TopN(int n, float floor) : n_(n), threshold_(floor) { entries_.reserve(size_t(n) + 1); }

  // True where a tile with this maximum can hold one.
  bool wants(float tile_max) const { return n_ > 0 && tile_max > threshold_; }

  // `values` is padded with -inf to whole strides of 64. Most strides hold nothing and are skipped
  // by one vector comparison.
  template <class Other>
  void offer(const float* values, int n, int64_t first, const Other& other) {
    for (int start = 0; start < n; start += kStride) {
      const float threshold = threshold_;
      uint32_t any = 0;
#pragma omp simd reduction(| : any)
      for (int l = 0; l < kStride; ++l) any |= uint32_t(values[start + l] > threshold);
      for (int i = start; any && i < start + kStride; ++i) {
        if (values[i] > threshold_) insert({values[i], other(i), first + i});
      }
    }
  }

  int count() const { return int(entries_.size()); }
  const Entry& operator[](int i) const { return entries_[size_t(i)]; }

 private:
  void insert(const Entry& entry) {
    auto place = entries_.end();
    while (place != entries_.begin() && entry.value > (place - 1)->value) --place;
    entries_.insert(place, entry);
    if (int(entries_.size()) > n_) entries_.pop_back();
    if (int(entries_.size()) == n_) threshold_ = entries_.back().value;
  }

  int n_;
  float threshold_;
  std::vector<Entry> entries_;
};

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SCORE_TOP_N_H_
