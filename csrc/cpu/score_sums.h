// Running sums of one distribution while its row is read: in double, relative to the largest logit
// so far, and without that one token. So 1 - p is a sum and never a difference.
#ifndef EFT_CPU_SCORE_SUMS_H_
#define EFT_CPU_SCORE_SUMS_H_

#include "cpu/score_tile.h"

namespace eft {
namespace {

struct Sums {
  double max = -INFINITY;
  double others = 0;    // sum of exp(x - max) over all tokens but the first largest
  double weighted = 0;  // sum of exp(x - max) (x - max)
  double squares = 0;   // sum of exp(x - max)^2 over all but the first largest
  int64_t first = 0;    // of the tile that holds the first largest
  int64_t before = 0;   // tokens that rank before the target

  // Adds a tile, padded to whole strides; returns its maximum.
  float add(const float* x, int n, int64_t start) {
    const float top = tile_max(x, n);
    if (top == -INFINITY) return top;
    const TileSums t = sum_tile(x, n, top);
    if (double(top) > max) {
      rebase(max - double(top));
      max = double(top);
      first = start;
      others += t.lower + (t.maxima - 1);
      weighted += t.weighted;
      squares += t.squares + (t.maxima - 1);
      return top;
    }
    const double d = double(top) - max;
    const double e = ::exp(d);
    others += e * (t.lower + t.maxima);
    weighted += e * (t.weighted + d * (t.lower + t.maxima));
    squares += e * e * (t.squares + t.maxima);
    return top;
  }

  double log_relative() const { return ::log1p(others); }  // lse - max
  double lse() const { return max + log_relative(); }
  double logprob(float x) const { return (double(x) - max) - log_relative(); }
  double entropy() const { return log_relative() - weighted / (1 + others); }
  double max_prob() const { return 1 / (1 + others); }
  double sum_squares() const { return (1 + squares) / ((1 + others) * (1 + others)); }

 private:
  // Moves the sums to a new largest token, -d above the old one.
  void rebase(double d) {
    if (max == -INFINITY) return;
    const double e = ::exp(d);
    if (e == 0) {
      others = weighted = squares = 0;
      return;
    }
    weighted = e * (weighted + d * (others + 1));
    others = e * (others + 1);
    squares = e * e * (squares + 1);
  }
};

// Below this the sum of the others may have lost tokens to underflow.
constexpr double kAlmostCertain = 1e-25;

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_SCORE_SUMS_H_
