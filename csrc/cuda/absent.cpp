// Stands in where no CUDA compiler was found: the same interface, and a sentence that says what is
// missing.
#include "common/error.h"

extern "C" int eft_step_cuda(const eft_step*, void*) {
  return eft::fail(EFT_UNSUPPORTED, "cuda: this libeft was built without nvcc");
}
extern "C" int eft_cuda_built(void) { return 0; }
extern "C" const char* eft_cuda_architectures(void) { return ""; }
extern "C" int eft_cuda_device_count(void) { return 0; }
