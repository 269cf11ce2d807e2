// The compiled kernels, by what they were made for.
#ifndef EFT_CUDA_KERNELS_H_
#define EFT_CUDA_KERNELS_H_

namespace eft {

// Entry points as cudaLaunchKernelExC takes them; null where there is none.
const void* stream_entry(int fast, bool conservative);
const void* resident_entry(int fast);

}  // namespace eft
#endif  // EFT_CUDA_KERNELS_H_
