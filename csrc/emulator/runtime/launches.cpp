// Kernels: how they are registered, loaded and launched.
#include "emulator/runtime/state.h"

namespace simt {
namespace {

constexpr int kDefaultSharedBytes = 48 * 1024;
constexpr unsigned kMaxPortableCluster = 8;

std::string text(const Dim3& d) {
  return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
}

// Says why the current device would not take a launch; empty if it does.
std::string launch_fault(const cudaLaunchConfig_t& c, const Kernel& kernel, int shared_limit) {
  const Dim3 &grid = c.gridDim, &block = c.blockDim;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return "grid: expected 1 to 2147483647 x 65535 x 65535 blocks, got " + text(grid);
  }
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (!threads || threads > kernel.max_threads || block.y != 1 || block.z != 1) {
    return "block: expected 1 to " + std::to_string(kernel.max_threads) + " threads, got " +
           text(block);
  }
  if (c.dynamicSmemBytes > size_t(shared_limit)) {
    return "shared memory: expected at most " + std::to_string(shared_limit) + " bytes, got " +
           std::to_string(c.dynamicSmemBytes);
  }
  for (unsigned i = 0; i < c.numAttrs; ++i) {
    const auto& size = c.attrs[i].val.clusterDim;
    if (c.attrs[i].id != cudaLaunchAttributeClusterDimension) return "attributes: an unknown one";
    if (current_device().major < 9) return "cluster: this device has none";
    if (!size.x || size.x > kMaxPortableCluster || size.y != 1 || size.z != 1 || grid.x % size.x) {
      return "cluster: expected 1 to 8 blocks that divide the grid's " + std::to_string(grid.x) +
             ", got " + text({size.x, size.y, size.z});
    }
  }
  return "";
}

}  // namespace

bool register_kernel(const void* entry, const Kernel& kernel) {
  return state()->kernels.emplace(entry, kernel).second;
}

cudaError_t check_launch(const cudaLaunchConfig_t& c, const void* kernel, void** arguments,
                         KernelLaunch& checked) {
  const LockedState s = state();
  const auto registered = s->kernels.find(kernel);
  const auto loaded = s->loaded.find({caller().current, kernel});
  if (registered == s->kernels.end() || loaded == s->loaded.end()) {
    return refuse(cudaErrorInvalidDeviceFunction, "launch: a kernel not loaded on this device");
  }
  const std::string fault = launch_fault(c, registered->second, loaded->second);
  if (!fault.empty()) return refuse(cudaErrorInvalidConfiguration, fault);
  checked.launch.grid = c.gridDim;
  checked.launch.threads = c.blockDim.x;
  checked.launch.shared_bytes = c.dynamicSmemBytes;
  if (c.numAttrs) checked.launch.cluster = c.attrs[0].val.clusterDim.x;
  checked.body = registered->second.bind(arguments);
  return cudaSuccess;
}

cudaError_t run_launch(const KernelLaunch& launch) {
  const LockedState s = state();
  Launch here = launch.launch;
  here.seed = s->seed++;
  try {
    run(here, launch.body);
  } catch (const Error& error) {
    return refuse(cudaErrorLaunchFailure, error.what());
  }
  return cudaSuccess;
}

}  // namespace simt

using namespace simt;

// Loads the kernel too, as the real runtime does.
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  const LockedState s = state();
  if (s->fail_load_after >= 0 && s->fail_load_after-- == 0) {
    return caller().last = cudaErrorLaunchFailure;
  }
  const auto registered = s->kernels.find(kernel);
  if (registered == s->kernels.end()) {
    return refuse(cudaErrorInvalidDeviceFunction, "cudaFuncGetAttributes: an unknown kernel");
  }
  if (!relaxed()) return not_relaxed("cudaFuncGetAttributes");
  s->loaded.emplace(std::make_pair(caller().current, kernel), kDefaultSharedBytes);
  attributes->maxThreadsPerBlock = int(registered->second.max_threads);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (!relaxed()) return not_relaxed("cudaFuncSetAttribute");
  const LockedState s = state();
  const auto loaded = s->loaded.find({caller().current, kernel});
  if (loaded == s->loaded.end()) {
    return refuse(cudaErrorInvalidDeviceFunction, "cudaFuncSetAttribute: a kernel not loaded");
  }
  const int most = current_device().shared_bytes;
  if (value < 0 || value > most) {
    return refuse(cudaErrorInvalidValue, "cudaFuncSetAttribute: expected at most " +
                                             std::to_string(most) + " bytes, got " +
                                             std::to_string(value));
  }
  loaded->second = value;
  return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* kernel, void** arguments) {
  const LockedState s = state();
  if (s->fail_after >= 0 && s->fail_after-- == 0) {
    return caller().last = cudaErrorLaunchOutOfResources;
  }
  if (const cudaError_t error = check_stream(c->stream)) return error;
  KernelLaunch checked;
  if (const cudaError_t error = check_launch(*c, kernel, arguments, checked)) return error;
  ++s->counts.launches;
  s->counts.clusters += c->numAttrs > 0;
  if (c->gridDim.y > s->counts.rows) s->counts.rows = c->gridDim.y;
  if (!caller().capture) return run_launch(checked);
  s->graphs[caller().capture].launches.push_back(std::move(checked));
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, cudaStream_t stream) {
  const cudaLaunchConfig_t config{grid, block, shared_bytes, stream, nullptr, 0};
  return cudaLaunchKernelExC(&config, kernel, arguments);
}
