// The CPU's entry point of a decoding step's advance.
#include "common/advance.h"

extern "C" int eft_advance_cpu(const eft_advance* advance) {
  const int64_t slot = advance->tick[0]++ % advance->ring_slots;
  for (int64_t row = 0; row < advance->num_rows; ++row) eft::advance_row(*advance, slot, row);
  return EFT_OK;
}
