// The tail of a decoding step: what happens to one row's drawn token. The same on every backend.
#ifndef EFT_COMMON_TAIL_H_
#define EFT_COMMON_TAIL_H_

#include "common/portable.h"
#include "eft_loop.h"

namespace eft {
namespace {

// Returns true if the row goes on. `slot` is the ring's slot of this step.
EFT_HD bool tail_row(const eft_tail& tail, int64_t slot, int64_t row) {
  const bool alive = tail.alive[row] != 0;
  const int64_t token = tail.drawn[row];
  tail.ring[slot * tail.ring_stride + row] = alive ? token : int64_t(EFT_TAIL_NOTHING);
  tail.tokens[row] = token < 0 ? 0 : token;  // an ended row may read any token
  if (!alive) return false;
  for (int32_t k = 0; k < tail.num_lengths; ++k) ++tail.lengths[k][row];
  bool over = ++tail.steps[row] >= tail.budgets[row] || token < 0;
  for (int64_t i = 0; i < tail.num_ends; ++i) over |= token == tail.ends[i];
  if (over) tail.alive[row] = 0;
  return !over;
}

}  // namespace
}  // namespace eft
#endif  // EFT_COMMON_TAIL_H_
