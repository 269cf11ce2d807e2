// The compiled kernels of verification.
#ifndef EFT_CUDA_VERIFY_KERNELS_H_
#define EFT_CUDA_VERIFY_KERNELS_H_

namespace eft {

const void* verify_stream_entry(bool conservative);
const void* verify_decide_entry();

}  // namespace eft
#endif  // EFT_CUDA_VERIFY_KERNELS_H_
