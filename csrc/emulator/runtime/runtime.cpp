// The device, its kernels and their launches, and what a test asks.
#include "emulator/runtime/state.h"

namespace cuda_host {
namespace {

struct Chip {
  int num_sms, major, minor, shared_bytes;
};
constexpr Chip kChips[] = {{132, 9, 0, 232448}, {108, 8, 0, 166912}, {148, 10, 0, 232448}};
constexpr int kNumChips = sizeof(kChips) / sizeof(kChips[0]);
constexpr int kSharedUnasked = 48 * 1024;
constexpr unsigned kPortableCluster = 8;

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
    if (kChips[caller().current].major < 9) return "cluster: this device has none";
    if (!size.x || size.x > kPortableCluster || size.y != 1 || size.z != 1 || grid.x % size.x) {
      return "cluster: expected 1 to 8 blocks that divide the grid's " + std::to_string(grid.x) +
             ", got " + text({size.x, size.y, size.z});
    }
  }
  return "";
}

State& only() {
  static State* const made = new State;  // from before main, when kernels make themselves known, on
  return *made;
}

}  // namespace

Held::Held() : state_(only()), lock_(state_.mutex) {}

Caller& caller() {
  static thread_local Caller made;
  return made;
}

bool know(const void* entry, const Kernel& kernel) {
  return state()->kernels.emplace(entry, kernel).second;
}

cudaError_t refuse(cudaError_t error, const std::string& why) {
  state()->faults += why + "\n";
  return caller().last = error;
}

cudaError_t forbidden(const char* what) {
  const bool capturing = caller().capture != 0;
  return refuse(capturing ? cudaErrorStreamCaptureUnsupported : cudaErrorInvalidValue,
                std::string(what) + (capturing ? ": called during a capture" : ": called"));
}

cudaError_t not_relaxed(const char* what) {
  return refuse(cudaErrorStreamCaptureUnsupported, std::string(what) + ": not relaxed");
}

cudaError_t check_place(cudaStream_t stream) {
  const Caller& c = caller();
  if (c.current != state()->device) return refuse(cudaErrorInvalidDevice, "device: another one");
  if (stream == c.stream) return cudaSuccess;
  return refuse(cudaErrorInvalidResourceHandle, "stream: another one");
}

cudaError_t take(const cudaLaunchConfig_t& c, const void* kernel, void** arguments,
                 Captured& taken) {
  const Held s = state();
  const auto known = s->kernels.find(kernel);
  const auto loaded = s->loaded.find({caller().current, kernel});
  if (known == s->kernels.end() || loaded == s->loaded.end()) {
    return refuse(cudaErrorInvalidDeviceFunction, "launch: a kernel not loaded on this device");
  }
  const std::string fault = fault_of(c, known->second, loaded->second);
  if (!fault.empty()) return refuse(cudaErrorInvalidConfiguration, fault);
  taken.launch.grid = c.gridDim;
  taken.launch.threads = c.blockDim.x;
  taken.launch.shared_bytes = c.dynamicSmemBytes;
  if (c.numAttrs) taken.launch.cluster = c.attrs[0].val.clusterDim.x;
  taken.body = known->second.bind(arguments);
  return cudaSuccess;
}

cudaError_t run_now(const Captured& launch) {
  const Held s = state();
  Launch here = launch.launch;
  here.seed = s->seed++;
  try {
    run(here, launch.body);
  } catch (const Error& error) {
    return refuse(cudaErrorLaunchFailure, error.what());
  }
  return cudaSuccess;
}

cudaError_t run_captured(int graph, int64_t first, int64_t last) {
  cudaError_t error = cudaSuccess;
  const Held s = state();
  for (int64_t i = first; i < last && !error; ++i) {
    error = run_now(s->graphs[graph].launches[size_t(i)]);
  }
  return error;
}

}  // namespace cuda_host

using namespace cuda_host;

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = caller().current;
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
  std::swap(*mode, caller().mode);
  return cudaSuccess;
}

// Loads the kernel.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  const Held s = state();
  if (s->fail_load_after >= 0 && s->fail_load_after-- == 0) {
    return caller().last = cudaErrorLaunchFailure;
  }
  const auto known = s->kernels.find(kernel);
  if (known == s->kernels.end()) {
    return refuse(cudaErrorInvalidDeviceFunction, "cudaFuncGetAttributes: an unknown kernel");
  }
  if (!relaxed()) return not_relaxed("cudaFuncGetAttributes");
  s->loaded.emplace(std::make_pair(caller().current, kernel), kSharedUnasked);
  attributes->maxThreadsPerBlock = int(known->second.most_threads);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (!relaxed()) return not_relaxed("cudaFuncSetAttribute");
  const Held s = state();
  const auto loaded = s->loaded.find({caller().current, kernel});
  if (loaded == s->loaded.end()) {
    return refuse(cudaErrorInvalidDeviceFunction, "cudaFuncSetAttribute: a kernel not loaded");
  }
  const int most = kChips[caller().current].shared_bytes;
  if (value < 0 || value > most) {
    return refuse(cudaErrorInvalidValue, "cudaFuncSetAttribute: expected at most " +
                                             std::to_string(most) + " bytes, got " +
                                             std::to_string(value));
  }
  loaded->second = value;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* kernel, void** arguments) {
  const Held s = state();
  if (s->fail_after >= 0 && s->fail_after-- == 0) {
    return caller().last = cudaErrorLaunchOutOfResources;
  }
  if (const cudaError_t error = check_place(c->stream)) return error;
  Captured taken;
  if (const cudaError_t error = take(*c, kernel, arguments, taken)) return error;
  ++s->counts.launches;
  s->counts.clusters += c->numAttrs > 0;
  if (c->gridDim.y > s->counts.rows) s->counts.rows = c->gridDim.y;
  if (!caller().capture) return run_now(taken);
  s->graphs[caller().capture].launches.push_back(std::move(taken));
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, cudaStream_t stream) {
  const cudaLaunchConfig_t config{grid, block, shared_bytes, stream, nullptr, 0};
  return cudaLaunchKernelExC(&config, kernel, arguments);
}

cudaError_t cudaGetLastError() { return std::exchange(caller().last, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure) return "unspecified launch failure";
  return error == cudaErrorLaunchOutOfResources ? "too many resources requested" : "refused";
}

extern "C" void eft_runtime_begin(int device, uint64_t stream, int capturing) {
  const Held s = state();
  s->device = caller().current = device;
  eft_runtime_drop(kOnlyGraph);
  eft_runtime_stream(stream, capturing ? kOnlyGraph : 0);
  s->counts = {};
}

extern "C" void eft_runtime_stream(uint64_t stream, int graph) {
  caller().stream = reinterpret_cast<cudaStream_t>(stream);
  caller().capture = graph;
}

extern "C" void eft_runtime_run(int graph, int64_t first, int64_t last) {
  run_captured(graph, first, last);
}

extern "C" int eft_runtime_enter(int device) { return std::exchange(caller().current, device); }

extern "C" void eft_runtime_replay(void) {
  eft_runtime_run(kOnlyGraph, 0, eft_runtime_size(kOnlyGraph));
}

extern "C" void eft_runtime_fail_launch(int number) { state()->fail_after = number; }
extern "C" void eft_runtime_fail_load(int number) { state()->fail_load_after = number; }
extern "C" eft_runtime_counts eft_runtime_count(void) { return state()->counts; }

extern "C" const char* eft_runtime_faults(void) {
  const Held s = state();
  Caller& c = caller();
  if (c.last != cudaSuccess) s->faults += "last error: left for the next caller of the runtime\n";
  if (!c.own.empty()) s->faults += "streams: not destroyed\n";
  if (c.mode != cudaStreamCaptureModeGlobal) s->faults += "capture mode: not as it was\n";
  c.last = cudaSuccess;
  c.mode = cudaStreamCaptureModeGlobal;
  c.told = std::exchange(s->faults, "");
  return c.told.c_str();
}
