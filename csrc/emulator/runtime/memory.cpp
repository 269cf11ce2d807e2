// Device memory, pinned memory, and copies.
#include <stdlib.h>
#include <string.h>

#include "emulator/runtime/state.h"

namespace simt {
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
}  // namespace simt

using namespace simt;

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
  if (!caller().own_streams.count(stream)) return forbidden("cudaMemsetAsync");
  memset(memory, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (caller().capture) return forbidden("cudaMemcpyAsync");
  if (const cudaError_t error = check_stream(stream)) return error;
  const LockedState s = state();
  if (kind != cudaMemcpyHostToDevice || !lies_in(s->memory, to, bytes) ||
      !lies_in(s->pinned, from, bytes)) {
    return refuse(cudaErrorInvalidValue, "cudaMemcpyAsync: not from pinned memory to the device's");
  }
  memcpy(to, from, bytes);
  return cudaSuccess;
}
