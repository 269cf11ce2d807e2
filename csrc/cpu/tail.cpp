// The CPU's entry point of a decoding step's tail.
#include "common/tail.h"

extern "C" int eft_tail_cpu(const eft_tail* tail) {
  const int64_t slot = tail->tick[0]++ % tail->ring_slots;
  for (int64_t row = 0; row < tail->num_rows; ++row) eft::tail_row(*tail, slot, row);
  return EFT_OK;
}
