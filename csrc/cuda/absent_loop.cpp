// Stands in where no CUDA compiler was found: the loop's interface, and a sentence that says what
// is missing.
#include "common/error.h"
#include "eft_loop.h"

namespace {
int absent() { return eft::fail(EFT_UNSUPPORTED, "cuda: this libeft was built without CUDA"); }
}  // namespace

extern "C" int eft_tail_cuda(const eft_tail*, void*) { return absent(); }
extern "C" int eft_while_supported(void) { return 0; }
extern "C" int eft_while_build(const eft_tail*, void*, eft_while**) { return absent(); }
extern "C" int eft_while_launch(eft_while*, int64_t, void*) { return absent(); }
extern "C" int eft_while_poll(eft_while*) { return -absent(); }
extern "C" void eft_while_close(eft_while*) {}
