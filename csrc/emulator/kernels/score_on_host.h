// The CUDA kernels of scoring on the emulator. The test chooses every launch: all of them must give
// the same bits.
#ifndef EFT_EMULATOR_KERNELS_SCORE_ON_HOST_H_
#define EFT_EMULATOR_KERNELS_SCORE_ON_HOST_H_

#include "emulator/kernels/step_on_host.h"

#ifdef __cplusplus
extern "C" {
#endif

// Runs eft_score_cuda's kernels. `how->kernel` EFT_HOST_CHOSEN: with the library's blocks a row.
EFT_API int eft_score_host(const eft_score* score, const eft_host_launch* how);

#ifdef __cplusplus
}
#endif
#endif  // EFT_EMULATOR_KERNELS_SCORE_ON_HOST_H_
