// Memory, streams and events.
#include <stdlib.h>
#include <string.h>

#include "emulator/runtime/state.h"

struct CUevent_st {
  bool recorded = false;  // and nobody has asked since
};

namespace cuda_host {
namespace {

using Blocks = std::map<const char*, size_t>;

cudaError_t allocate(Blocks& blocks, void** memory, size_t bytes) {
  *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  memset(*memory, 0xa5, bytes);
  blocks[static_cast<char*>(*memory)] = bytes;
  return cudaSuccess;
}

cudaError_t deallocate(Blocks& blocks, void* memory, const char* what) {
  if (memory && !blocks.erase(static_cast<char*>(memory))) {
    return refuse(cudaErrorInvalidValue, std::string(what) + ": not memory of this kind");
  }
  free(memory);
  return cudaSuccess;
}

bool lies_in(const Blocks& blocks, const void* memory, size_t bytes) {
  const char* const first = static_cast<const char*>(memory);
  auto after = blocks.upper_bound(first);
  if (after == blocks.begin()) return false;
  --after;
  return first + bytes <= after->first + after->second;
}

}  // namespace
}  // namespace cuda_host

using namespace cuda_host;

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (!relaxed()) return forbidden("cudaMalloc");
  ++state()->counts.allocations;
  return allocate(state()->memory, memory, bytes);
}

cudaError_t cudaFree(void* memory) {
  if (!relaxed()) return forbidden("cudaFree");
  return deallocate(state()->memory, memory, "cudaFree");
}

cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  if (!relaxed()) return forbidden("cudaMallocHost");
  return allocate(state()->pinned, memory, bytes);
}

cudaError_t cudaFreeHost(void* memory) {
  if (!relaxed()) return forbidden("cudaFreeHost");
  return deallocate(state()->pinned, memory, "cudaFreeHost");
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  if (!caller().own.count(stream)) return forbidden("cudaMemsetAsync");
  memset(memory, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (caller().capture) return forbidden("cudaMemcpyAsync");
  if (const cudaError_t error = check_place(stream)) return error;
  const Held s = state();
  if (kind != cudaMemcpyHostToDevice || !lies_in(s->memory, to, bytes) ||
      !lies_in(s->pinned, from, bytes)) {
    return refuse(cudaErrorInvalidValue, "cudaMemcpyAsync: not from pinned memory to the device's");
  }
  memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (!relaxed()) return not_relaxed("cudaStreamCreateWithFlags");
  if (flags != cudaStreamNonBlocking) {
    return refuse(cudaErrorInvalidValue, "cudaStreamCreateWithFlags: would wait for other streams");
  }
  *stream = reinterpret_cast<cudaStream_t>(new char);
  caller().own.insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (!caller().own.erase(stream)) return forbidden("cudaStreamDestroy");
  delete reinterpret_cast<char*>(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (!relaxed() || !caller().own.count(stream)) return forbidden("cudaStreamSynchronize");
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() { return forbidden("cudaDeviceSynchronize"); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (flags != cudaEventDisableTiming) {
    return refuse(cudaErrorInvalidValue, "cudaEventCreateWithFlags: would take the time");
  }
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (caller().capture) return forbidden("cudaEventRecord");
  if (const cudaError_t error = check_place(stream)) return error;
  event->recorded = true;
  return cudaSuccess;
}

// Something is always still under way when it is first asked for; CUDA does not count that among
// the errors that cudaGetLastError gives.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (!relaxed()) return not_relaxed("cudaEventQuery");
  return std::exchange(event->recorded, false) ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (!relaxed()) return not_relaxed("cudaEventSynchronize");
  event->recorded = false;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
