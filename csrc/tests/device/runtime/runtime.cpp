#include "tests/device/runtime/runtime.h"

#include <cuda_runtime.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

// What is held until its last reference goes.
struct CUuserObject_st {
  void* held;
  cudaHostFn_t destroy;
  unsigned references;
};

namespace cuda_host {
namespace {

struct Chip {
  int num_sms, major, minor, shared_bytes;
};
constexpr Chip kChips[] = {{132, 9, 0, 232448}, {108, 8, 0, 166912}, {148, 10, 0, 232448}};
constexpr int kNumChips = sizeof(kChips) / sizeof(kChips[0]);
constexpr int kSharedUnasked = 48 * 1024;
constexpr unsigned kPortableCluster = 8;

struct Captured {
  Launch launch;
  std::function<void()> body;
};

struct State {
  std::map<const void*, Kernel> kernels;
  std::map<std::pair<int, const void*>, int> loaded;  // shared memory that a launch may have
  int device = 0, current = 0;  // where launches have to be, where they would be
  cudaStream_t stream = nullptr;
  bool capturing = false;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::vector<Captured> captured;
  std::vector<cudaUserObject_t> kept;  // by the graph that is captured
  std::set<cudaStream_t> own;          // streams that launch code has made
  int fail_after = -1, fail_load_after = -1;
  cudaError_t last = cudaSuccess;
  uint64_t seed = 0;
  eft_runtime_counts counts{};
  std::string faults, told;
};

State& state() {
  static State made;  // kernels make themselves known before main
  return made;
}

cudaError_t refuse(cudaError_t error, const std::string& why) {
  state().faults += why + "\n";
  return state().last = error;
}

cudaError_t forbidden(const char* what) {
  return refuse(state().capturing ? cudaErrorStreamCaptureUnsupported : cudaErrorInvalidValue,
                std::string(what) + (state().capturing ? ": called during a capture" : ": called"));
}

bool relaxed() { return state().mode == cudaStreamCaptureModeRelaxed; }

// What another thread's capture forbids to all but the relaxed.
cudaError_t not_relaxed(const char* what) {
  return refuse(cudaErrorStreamCaptureUnsupported, std::string(what) + ": not relaxed");
}

cudaGraph_t graph_of_capture() { return reinterpret_cast<cudaGraph_t>(&state().captured); }

void release(cudaUserObject_t object, unsigned count) {
  if (object->references -= count) return;
  object->destroy(object->held);
  delete object;
}

std::string text(const Dim3& d) {
  return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
}

// What a device would not take, as words; empty where it takes all.
std::string fault_of(const cudaLaunchConfig_t& c, const Kernel& kernel, int shared_limit) {
  const Dim3 &grid = c.gridDim, &block = c.blockDim;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return "grid: expected 1 to 2147483647 x 65535 x 65535 blocks, got " + text(grid);
  }
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (!threads || threads > kernel.most_threads || block.y != 1 || block.z != 1) {
    return "block: expected 1 to " + std::to_string(kernel.most_threads) + " threads, got " +
           text(block);
  }
  if (c.dynamicSmemBytes > size_t(shared_limit)) {
    return "shared memory: expected at most " + std::to_string(shared_limit) + " bytes, got " +
           std::to_string(c.dynamicSmemBytes);
  }
  for (unsigned i = 0; i < c.numAttrs; ++i) {
    const auto& size = c.attrs[i].val.clusterDim;
    if (c.attrs[i].id != cudaLaunchAttributeClusterDimension) return "attributes: an unknown one";
    if (kChips[state().current].major < 9) return "cluster: this device has none";
    if (!size.x || size.x > kPortableCluster || size.y != 1 || size.z != 1 || grid.x % size.x) {
      return "cluster: expected 1 to 8 blocks that divide the grid's " + std::to_string(grid.x) +
             ", got " + text({size.x, size.y, size.z});
    }
  }
  return "";
}

cudaError_t run_now(const Launch& launch, const std::function<void()>& body) {
  Launch here = launch;
  here.seed = state().seed++;
  try {
    run(here, body);
  } catch (const Error& error) {
    return refuse(cudaErrorLaunchFailure, error.what());
  }
  return cudaSuccess;
}

}  // namespace

bool know(const void* entry, const Kernel& kernel) {
  return state().kernels.emplace(entry, kernel).second;
}

}  // namespace cuda_host

using namespace cuda_host;

cudaError_t cudaGetDevice(int* device) {
  *device = state().current;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kNumChips;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!relaxed()) return not_relaxed("cudaDeviceGetAttribute");
  if (device < 0 || device >= kNumChips) return refuse(cudaErrorInvalidDevice, "no such device");
  const Chip& chip = kChips[device];
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = chip.num_sms; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = chip.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = chip.minor; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = chip.shared_bytes; return cudaSuccess;
  }
  return refuse(cudaErrorInvalidValue, "device attribute: an unknown one");
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, state().mode);
  return cudaSuccess;
}

// Loads the kernel.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  State& s = state();
  if (s.fail_load_after >= 0 && s.fail_load_after-- == 0) return s.last = cudaErrorLaunchFailure;
  const auto known = state().kernels.find(kernel);
  if (known == state().kernels.end()) {
    return refuse(cudaErrorInvalidDeviceFunction, "cudaFuncGetAttributes: an unknown kernel");
  }
  if (!relaxed()) return not_relaxed("cudaFuncGetAttributes");
  state().loaded.emplace(std::make_pair(state().current, kernel), kSharedUnasked);
  attributes->maxThreadsPerBlock = int(known->second.most_threads);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (!relaxed()) return not_relaxed("cudaFuncSetAttribute");
  const auto loaded = state().loaded.find({state().current, kernel});
  if (loaded == state().loaded.end()) {
    return refuse(cudaErrorInvalidDeviceFunction, "cudaFuncSetAttribute: a kernel not loaded");
  }
  const int most = kChips[state().current].shared_bytes;
  if (value < 0 || value > most) {
    return refuse(cudaErrorInvalidValue, "cudaFuncSetAttribute: expected at most " +
                                             std::to_string(most) + " bytes, got " +
                                             std::to_string(value));
  }
  loaded->second = value;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* kernel, void** arguments) {
  State& s = state();
  if (s.fail_after >= 0 && s.fail_after-- == 0) return s.last = cudaErrorLaunchOutOfResources;
  const auto known = s.kernels.find(kernel);
  const auto loaded = s.loaded.find({s.current, kernel});
  if (known == s.kernels.end() || loaded == s.loaded.end()) {
    return refuse(cudaErrorInvalidDeviceFunction, "launch: a kernel not loaded on this device");
  }
  if (s.current != s.device) return refuse(cudaErrorInvalidDevice, "device: another one");
  if (c->stream != s.stream) return refuse(cudaErrorInvalidResourceHandle, "stream: another one");
  const std::string fault = fault_of(*c, known->second, loaded->second);
  if (!fault.empty()) return refuse(cudaErrorInvalidConfiguration, fault);
  Launch launch;
  launch.grid = c->gridDim;
  launch.threads = c->blockDim.x;
  launch.shared_bytes = c->dynamicSmemBytes;
  if (c->numAttrs) launch.cluster = c->attrs[0].val.clusterDim.x;
  ++s.counts.launches;
  s.counts.clusters += c->numAttrs > 0;
  if (c->gridDim.y > s.counts.rows) s.counts.rows = c->gridDim.y;
  std::function<void()> body = known->second.bind(arguments[0]);
  if (!s.capturing) return run_now(launch, body);
  s.captured.push_back({launch, std::move(body)});
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, cudaStream_t stream) {
  const cudaLaunchConfig_t config{grid, block, shared_bytes, stream, nullptr, 0};
  return cudaLaunchKernelExC(&config, kernel, arguments);
}

cudaError_t cudaGetLastError() { return std::exchange(state().last, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure) return "unspecified launch failure";
  return error == cudaErrorLaunchOutOfResources ? "too many resources requested" : "refused";
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long*, cudaGraph_t* graph) {
  State& s = state();
  if (stream != s.stream) return refuse(cudaErrorInvalidResourceHandle, "stream: another one");
  *status = s.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  if (s.capturing) *graph = graph_of_capture();
  return cudaSuccess;
}

cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* held, cudaHostFn_t destroy,
                                 unsigned references, unsigned flags) {
  if (!destroy || references != 1 || flags != cudaUserObjectNoDestructorSync) {
    return refuse(cudaErrorInvalidValue, "cudaUserObjectCreate: an unknown use");
  }
  *object = new CUuserObject_st{held, destroy, references};
  return cudaSuccess;
}

cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned count) {
  release(object, count);
  return cudaSuccess;
}

cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned count,
                                      unsigned flags) {
  if (graph != graph_of_capture() || count != 1 || flags != cudaGraphUserObjectMove) {
    return refuse(cudaErrorInvalidValue, "cudaGraphRetainUserObject: another graph");
  }
  state().kept.push_back(object);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (!relaxed()) return forbidden("cudaMalloc");
  *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  memset(*memory, 0xa5, bytes);
  ++state().counts.allocations;
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  if (!relaxed()) return forbidden("cudaFree");
  free(memory);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (!relaxed()) return not_relaxed("cudaStreamCreateWithFlags");
  if (flags != cudaStreamNonBlocking) {
    return refuse(cudaErrorInvalidValue, "cudaStreamCreateWithFlags: would wait for other streams");
  }
  *stream = reinterpret_cast<cudaStream_t>(new char);
  state().own.insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (!state().own.erase(stream)) return forbidden("cudaStreamDestroy");
  delete reinterpret_cast<char*>(stream);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  if (!state().own.count(stream)) return forbidden("cudaMemsetAsync");
  memset(memory, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (!relaxed() || !state().own.count(stream)) return forbidden("cudaStreamSynchronize");
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() { return forbidden("cudaDeviceSynchronize"); }

extern "C" void eft_runtime_begin(int device, uint64_t stream, int capturing) {
  State& s = state();
  s.device = s.current = device;
  s.stream = reinterpret_cast<cudaStream_t>(stream);
  s.capturing = capturing;
  s.captured.clear();
  for (cudaUserObject_t object : std::exchange(s.kept, {})) release(object, 1);
  s.counts = {};
}

extern "C" int eft_runtime_enter(int device) { return std::exchange(state().current, device); }

extern "C" void eft_runtime_replay(void) {
  for (const Captured& each : state().captured) run_now(each.launch, each.body);
}

extern "C" void eft_runtime_fail_launch(int number) { state().fail_after = number; }
extern "C" void eft_runtime_fail_load(int number) { state().fail_load_after = number; }
extern "C" eft_runtime_counts eft_runtime_count(void) { return state().counts; }

extern "C" const char* eft_runtime_faults(void) {
  State& s = state();
  if (s.last != cudaSuccess) s.faults += "last error: left for the next caller of the runtime\n";
  if (!s.own.empty()) s.faults += "streams: not destroyed\n";
  if (s.mode != cudaStreamCaptureModeGlobal) s.faults += "capture mode: not as it was\n";
  s.last = cudaSuccess;
  s.mode = cudaStreamCaptureModeGlobal;
  s.told = std::exchange(s.faults, "");
  return s.told.c_str();
}
