#include <mutex>
#include <vector>

#include "cuda/common/load_kernels.h"
#include "cuda/common/tickets.h"
#include "eft.h"

namespace eft {
namespace {

constexpr int kSlab = 16;  // sets that are allocated together

struct TicketPool;
struct TicketSet {
  TicketPool* pool;
  void* tickets;
};

// The sets of one device. No call to CUDA is made under the mutex, since CUDA calls give_back.
struct TicketPool {
  std::mutex mutex;
  std::vector<TicketSet*> free;
  size_t made = 0;

  TicketSet* take() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (free.empty()) return nullptr;
    TicketSet* set = free.back();
    free.pop_back();
    return set;
  }
};

TicketPool& pool_of(int device) {
  static TicketPool* const pools =
      new TicketPool[kMaxDevices];  // for ever: graphs may go after all statics
  return pools[device];
}

void CUDART_CB give_back(void* held) {
  TicketSet* set = static_cast<TicketSet*>(held);
  const std::lock_guard<std::mutex> lock(set->pool->mutex);
  set->pool->free.push_back(set);  // there is room for every set
}

// On a stream of its own, since the caller's is being captured.
cudaError_t zeros(void** memory, size_t bytes) {
  cudaStream_t stream = nullptr;
  cudaError_t error = cudaMalloc(memory, bytes);
  if (error) return error;
  error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (!error) error = cudaMemsetAsync(*memory, 0, bytes, stream);
  if (!error) error = cudaStreamSynchronize(stream);
  if (stream) cudaStreamDestroy(stream);
  if (error) cudaFree(*memory);
  return error;
}

cudaError_t make_ticket_sets(TicketPool& pool) {
  const RelaxedCapture relaxed;
  void* memory = nullptr;
  if (const cudaError_t error = zeros(&memory, kSlab * EFT_CUDA_TICKET_BYTES)) return error;
  const std::lock_guard<std::mutex> lock(pool.mutex);
  pool.made += kSlab;
  pool.free.reserve(pool.made);
  for (int i = 0; i < kSlab; ++i) {
    pool.free.push_back(
        new TicketSet{&pool, static_cast<char*>(memory) + i * EFT_CUDA_TICKET_BYTES});
  }
  return cudaSuccess;
}

cudaError_t take_ticket_set(TicketSet*& set) {
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  if (device >= kMaxDevices) return cudaErrorInvalidDevice;
  TicketPool& pool = pool_of(device);
  while (!(set = pool.take())) {
    if (const cudaError_t error = make_ticket_sets(pool)) return error;
  }
  return cudaSuccess;
}

cudaError_t capture_of(cudaStream_t stream, cudaStreamCaptureStatus* status, cudaGraph_t* graph) {
#if CUDART_VERSION >= 13000
  return cudaStreamGetCaptureInfo(stream, status, nullptr, graph);
#else
  return cudaStreamGetCaptureInfo_v2(stream, status, nullptr, graph);
#endif
}

}  // namespace

cudaError_t tickets_of_capture(cudaStream_t stream, uint32_t*& tickets) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
  cudaError_t error = capture_of(stream, &status, &graph);
  if (error || status != cudaStreamCaptureStatusActive) return error;
  TicketSet* set = nullptr;
  if ((error = take_ticket_set(set))) return error;
  cudaUserObject_t object;
  error = cudaUserObjectCreate(&object, set, give_back, 1, cudaUserObjectNoDestructorSync);
  if (error) {
    give_back(set);
    return error;
  }
  error = cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove);
  if (error) {
    cudaUserObjectRelease(object, 1);  // which gives the set back
    return error;
  }
  tickets = static_cast<uint32_t*>(set->tickets);
  return cudaSuccess;
}

}  // namespace eft
