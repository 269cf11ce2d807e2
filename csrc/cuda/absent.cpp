// Stands in where no CUDA compiler was found: the same interface, and a sentence that says what is
// missing.
#include "common/error.h"

namespace {
int absent() { return eft::fail(EFT_UNSUPPORTED, "cuda: this libeft was built without CUDA"); }
}  // namespace

extern "C" uint64_t eft_cuda_workspace_bytes(const eft_step*) { return 0; }
extern "C" int eft_step_cuda(const eft_step*, void*, void*, uint64_t) { return absent(); }
extern "C" int eft_combine_cuda(const eft_step*, float*, int64_t, void*, void*, uint64_t) {
  return absent();
}
extern "C" uint64_t eft_verify_cuda_workspace_bytes(const eft_verify*) { return 0; }
extern "C" int eft_verify_cuda(const eft_verify*, void*, void*, uint64_t) { return absent(); }
extern "C" int eft_cuda_built(void) { return 0; }
extern "C" const char* eft_cuda_architectures(void) { return ""; }
extern "C" int eft_cuda_device_count(void) { return 0; }
