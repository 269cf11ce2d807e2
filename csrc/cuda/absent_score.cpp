// Scoring on CUDA where no CUDA compiler was found.
#include "common/error.h"

extern "C" uint64_t eft_score_cuda_workspace_bytes(const eft_score*) { return 0; }
extern "C" int eft_score_cuda(const eft_score*, void*, void*, uint64_t) {
  return eft::fail(EFT_UNSUPPORTED, "cuda: this libeft was built without CUDA");
}
