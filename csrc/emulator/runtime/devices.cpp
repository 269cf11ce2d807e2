// The devices of the runtime, by their properties.
#include "emulator/runtime/state.h"

namespace simt {
namespace {

// An H200, an A100 and a B200.
constexpr DeviceProperties kDevices[] = {
    {132, 9, 0, 232448}, {108, 8, 0, 166912}, {148, 10, 0, 232448}};
constexpr int kNumDevices = sizeof(kDevices) / sizeof(kDevices[0]);

}  // namespace

const DeviceProperties& current_device() { return kDevices[caller().current]; }

}  // namespace simt

using namespace simt;

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = caller().current;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kNumDevices;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!relaxed()) return not_relaxed("cudaDeviceGetAttribute");
  if (device < 0 || device >= kNumDevices) return refuse(cudaErrorInvalidDevice, "no such device");
  const DeviceProperties& properties = kDevices[device];
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = properties.num_sms; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = properties.shared_bytes;
      return cudaSuccess;
  }
  return refuse(cudaErrorInvalidValue, "device attribute: an unknown one");
}
