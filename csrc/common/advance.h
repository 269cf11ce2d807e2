// The advance of a decoding step: what happens to one row's next token. The same on every backend.
#ifndef EFT_COMMON_ADVANCE_H_
#define EFT_COMMON_ADVANCE_H_

#include "common/portable.h"
#include "eft_loop.h"

namespace eft {
namespace {

// Returns true if the row goes on. `slot` is the ring's slot of this step.
EFT_HD bool advance_row(const eft_advance& advance, int64_t slot, int64_t row) {
  const bool active = advance.active[row] != 0;
  const int64_t token = advance.next_tokens[row];
  advance.ring[slot * advance.ring_stride + row] = active ? token : int64_t(EFT_INACTIVE);
  advance.tokens[row] = token < 0 ? 0 : token;  // an inactive row may read any token
  if (!active) return false;
  for (int32_t k = 0; k < advance.num_lengths; ++k) ++advance.lengths[k][row];
  bool ended = ++advance.steps[row] >= advance.max_new_tokens[row] || token < 0;
  for (int64_t i = 0; i < advance.num_eos; ++i) ended |= token == advance.eos_token_ids[i];
  if (ended) advance.active[row] = 0;
  return !ended;
}

}  // namespace
}  // namespace eft
#endif  // EFT_COMMON_ADVANCE_H_
