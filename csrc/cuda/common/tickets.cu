#include <mutex>
#include <vector>

#include "cuda/common/load_kernels.h"
#include "cuda/common/tickets.h"
#include "eft.h"

namespace eft {
namespace {

constexpr int kSlab = 16;  // pages that are allocated together

struct Pool;
struct Page {
  Pool* pool;
  void* tickets;
};

// The pages of one device. No call to CUDA is made under the mutex, since CUDA calls give_back.
struct Pool {
  std::mutex mutex;
  std::vector<Page*> free;
  size_t made = 0;

  Page* take() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (free.empty()) return nullptr;
    Page* page = free.back();
    free.pop_back();
    return page;
  }
};

Pool& pool_of(int device) {
  static Pool* const pools = new Pool[kMaxDevices];  // for ever: graphs may go after all statics
  return pools[device];
}

void CUDART_CB give_back(void* held) {
  Page* page = static_cast<Page*>(held);
  const std::lock_guard<std::mutex> lock(page->pool->mutex);
  page->pool->free.push_back(page);  // there is room for every page
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

cudaError_t make_pages(Pool& pool) {
  const RelaxedCapture relaxed;
  void* memory = nullptr;
  if (const cudaError_t error = zeros(&memory, kSlab * EFT_CUDA_TICKET_BYTES)) return error;
  const std::lock_guard<std::mutex> lock(pool.mutex);
  pool.made += kSlab;
  pool.free.reserve(pool.made);
  for (int i = 0; i < kSlab; ++i) {
    pool.free.push_back(new Page{&pool, static_cast<char*>(memory) + i * EFT_CUDA_TICKET_BYTES});
  }
  return cudaSuccess;
}

cudaError_t take_page(Page*& page) {
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  if (device >= kMaxDevices) return cudaErrorInvalidDevice;
  Pool& pool = pool_of(device);
  while (!(page = pool.take())) {
    if (const cudaError_t error = make_pages(pool)) return error;
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
  Page* page = nullptr;
  if ((error = take_page(page))) return error;
  cudaUserObject_t object;
  error = cudaUserObjectCreate(&object, page, give_back, 1, cudaUserObjectNoDestructorSync);
  if (error) {
    give_back(page);
    return error;
  }
  error = cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove);
  if (error) {
    cudaUserObjectRelease(object, 1);  // which gives the page back
    return error;
  }
  tickets = static_cast<uint32_t*>(page->tickets);
  return cudaSuccess;
}

}  // namespace eft
