// The compiled kernels, by what they were made for.
#ifndef EFT_CUDA_COMMON_KERNELS_H_
#define EFT_CUDA_COMMON_KERNELS_H_

namespace eft {

// Entry points as cudaLaunchKernelExC takes them. `fast`: how many bf16 models, 0 for any dtypes.
const void* stream_entry(int fast, bool conservative);
const void* resident_entry(int fast);
const void* verify_stream_entry(bool conservative);
const void* verify_decide_entry();
const void* score_entry();
const void* compare_entry();

}  // namespace eft
#endif  // EFT_CUDA_COMMON_KERNELS_H_
