// Loads kernels before their first launch, which may be captured: a thread that captures must not
// load, unless its capture mode is relaxed.
#ifndef EFT_CUDA_COMMON_LOAD_KERNELS_H_
#define EFT_CUDA_COMMON_LOAD_KERNELS_H_

#include <cuda_runtime.h>

#include <atomic>
#include <initializer_list>
#include <mutex>

#include "cuda/common/chip.h"

namespace eft {
namespace {

constexpr int kMaxDevices = 64;

// While one of these lives its thread may call anything, also in the middle of a capture.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

inline cudaError_t ask_chip(int device, Chip& chip) {
  cudaError_t error = cudaDeviceGetAttribute(&chip.num_sms, cudaDevAttrMultiProcessorCount, device);
  if (!error) {
    error = cudaDeviceGetAttribute(&chip.major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (error) return error;
  return cudaDeviceGetAttribute(&chip.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                device);
}

// Loads them on the current device.
inline cudaError_t load_kernels(std::initializer_list<const void*> entries) {
  for (const void* entry : entries) {
    cudaFuncAttributes unused;
    if (const cudaError_t error = cudaFuncGetAttributes(&unused, entry)) return error;
  }
  return cudaSuccess;
}

// The devices that a file's kernels are loaded on. A failure is not kept: the next call tries
// again.
class Devices {
 public:
  // The current device's chip; the first time, after `load(chip)` has succeeded there.
  template <class Load>
  cudaError_t current(Chip& chip, Load load) {
    int id = 0;
    if (const cudaError_t error = cudaGetDevice(&id)) return error;
    if (id >= kMaxDevices) return cudaErrorInvalidDevice;
    Device& device = devices_[id];
    if (!device.ready.load(std::memory_order_acquire)) {
      if (const cudaError_t error = prepare(id, device, load)) return error;
    }
    chip = device.chip;
    return cudaSuccess;
  }

 private:
  struct Device {
    std::atomic<bool> ready{false};
    std::mutex mutex;
    Chip chip{};
  };

  template <class Load>
  static cudaError_t prepare(int id, Device& device, Load load) {
    const std::lock_guard<std::mutex> lock(device.mutex);
    if (device.ready.load(std::memory_order_relaxed)) return cudaSuccess;
    const RelaxedCapture relaxed;
    Chip chip{};
    cudaError_t error = ask_chip(id, chip);
    if (!error) error = load(chip);
    if (error) return error;
    device.chip = chip;
    device.ready.store(true, std::memory_order_release);
    return cudaSuccess;
  }

  Device devices_[kMaxDevices];
};

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_LOAD_KERNELS_H_
