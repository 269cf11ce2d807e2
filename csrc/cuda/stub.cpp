// The CUDA entry points of a libeft that was built without nvcc: each returns an error that says
// so.
#include "common/error.h"
#include "eft_loop.h"

namespace {
int not_built() { return eft::fail(EFT_UNSUPPORTED, "cuda: this libeft was built without CUDA"); }
}  // namespace

extern "C" int eft_cuda_built(void) { return 0; }
extern "C" const char* eft_cuda_architectures(void) { return ""; }
extern "C" int eft_cuda_device_count(void) { return 0; }

// The step.
extern "C" uint64_t eft_cuda_workspace_bytes(const eft_step*) { return 0; }
extern "C" int eft_step_cuda(const eft_step*, void*, void*, uint64_t) { return not_built(); }
extern "C" int eft_combine_cuda(const eft_step*, float*, int64_t, void*, void*, uint64_t) {
  return not_built();
}

// Verification and scoring.
extern "C" uint64_t eft_verify_cuda_workspace_bytes(const eft_verify*) { return 0; }
extern "C" int eft_verify_cuda(const eft_verify*, void*, void*, uint64_t) { return not_built(); }
extern "C" uint64_t eft_score_cuda_workspace_bytes(const eft_score*) { return 0; }
extern "C" int eft_score_cuda(const eft_score*, void*, void*, uint64_t) { return not_built(); }

// The loop.
extern "C" int eft_advance_cuda(const eft_advance*, void*) { return not_built(); }
extern "C" int eft_while_supported(void) { return 0; }
extern "C" int eft_while_build(const eft_advance*, void*, eft_while**) { return not_built(); }
extern "C" int eft_while_launch(eft_while*, int64_t, void*) { return not_built(); }
extern "C" int eft_while_poll(eft_while*) { return -not_built(); }
extern "C" void eft_while_close(eft_while*) {}
