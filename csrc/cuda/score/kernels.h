// The compiled kernels of scoring.
#ifndef EFT_CUDA_SCORE_KERNELS_H_
#define EFT_CUDA_SCORE_KERNELS_H_

namespace eft {

const void* score_entry();
const void* compare_entry();

}  // namespace eft
#endif  // EFT_CUDA_SCORE_KERNELS_H_
