// Kernels loaded before their first launch. That may be captured, and a thread that captures may
// not do what loading takes, unless it says that it may.
#ifndef EFT_CUDA_LOAD_KERNELS_H_
#define EFT_CUDA_LOAD_KERNELS_H_

#include <cuda_runtime.h>

#include <initializer_list>
#include <mutex>

namespace eft {
namespace {

constexpr int kMaxDevices = 64;

// While one of these lives its thread may call anything, in the middle of a capture too.
class Relaxed {
 public:
  Relaxed() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~Relaxed() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  Relaxed(const Relaxed&) = delete;
  Relaxed& operator=(const Relaxed&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// On the current device.
inline cudaError_t load_kernels(std::initializer_list<const void*> entries) {
  const Relaxed relaxed;
  for (const void* entry : entries) {
    cudaFuncAttributes unused;
    if (const cudaError_t error = cudaFuncGetAttributes(&unused, entry)) return error;
  }
  return cudaSuccess;
}

// Whether the kernels of a file are there, by device.
struct Loaded {
  std::once_flag once[kMaxDevices];
  cudaError_t error[kMaxDevices];

  cudaError_t on(int device, std::initializer_list<const void*> entries) {
    if (device >= kMaxDevices) return cudaErrorInvalidDevice;
    std::call_once(once[device], [&] { error[device] = load_kernels(entries); });
    return error[device];
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_LOAD_KERNELS_H_
