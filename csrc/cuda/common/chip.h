// The properties of a device that the launch code asks for.
#ifndef EFT_CUDA_COMMON_CHIP_H_
#define EFT_CUDA_COMMON_CHIP_H_

namespace eft {
namespace {

struct Chip {
  int num_sms;
  int major;         // compute capability
  int shared_bytes;  // that a block may ask for
};

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_CHIP_H_
