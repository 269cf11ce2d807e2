// The advance of a decoding step on CUDA, and the loop on the device: a WHILE conditional node
// whose body is the captured step followed by a kernel that decides whether another one comes.
#include <cuda_runtime.h>

#include <new>

#include "common/advance.h"
#include "common/error.h"
#include "cuda/common/load_kernels.h"

// Conditional nodes came with 12.3, WHILE loops over child graphs are reliable from 12.4 on.
#define EFT_HAS_WHILE (CUDART_VERSION >= 12040)

namespace eft {
namespace {

constexpr int kThreads = 256;

int failed(const char* what, cudaError_t error) {
  cudaGetLastError();  // or the next caller of the runtime would find it
  return fail(EFT_DEVICE_ERROR, "cuda: %s: %s", what, cudaGetErrorString(error));
}

// One block: rows are few, and all threads read the tick before thread 0 advances it.
__global__ void __launch_bounds__(kThreads)
    advance_kernel(const __grid_constant__ eft_advance advance) {
  const int64_t slot = advance.tick[0] % advance.ring_slots;
  __syncthreads();
  for (int64_t row = threadIdx.x; row < advance.num_rows; row += kThreads)
    advance_row(advance, slot, row);
  if (threadIdx.x == 0) ++advance.tick[0];
}

#if EFT_HAS_WHILE
// Runs after the captured step, which ends with its advance. `left` counts down a launch's steps.
__global__ void __launch_bounds__(kThreads)
    again_kernel(const int64_t* active, int64_t num_rows, int64_t* left,
                 cudaGraphConditionalHandle handle) {
  int any = 0;
  for (int64_t row = threadIdx.x; row < num_rows; row += kThreads) any |= active[row] != 0;
  any = __syncthreads_or(any);
  if (threadIdx.x == 0) cudaGraphSetConditional(handle, any && --*left > 0);
}

cudaError_t add_node(cudaGraphNode_t* node, cudaGraph_t graph, cudaGraphNodeParams* params) {
#if CUDART_VERSION >= 13000
  return cudaGraphAddNode(node, graph, nullptr, nullptr, 0, params);
#else
  return cudaGraphAddNode(node, graph, nullptr, 0, params);
#endif
}
#endif

}  // namespace
}  // namespace eft

extern "C" int eft_advance_cuda(const eft_advance* advance, void* stream) {
  static eft::Devices devices;
  eft::Chip unused;
  cudaError_t error = devices.current(unused, [](const eft::Chip&) {
    return eft::load_kernels({reinterpret_cast<const void*>(eft::advance_kernel)});
  });
  if (error == cudaSuccess) {
    void* arguments[] = {const_cast<eft_advance*>(advance)};
    error = cudaLaunchKernel(reinterpret_cast<const void*>(eft::advance_kernel), dim3(1),
                             dim3(eft::kThreads), arguments, 0, static_cast<cudaStream_t>(stream));
  }
  return error == cudaSuccess ? EFT_OK : eft::failed("advance", error);
}

#if EFT_HAS_WHILE

struct eft_while {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaEvent_t ended = nullptr;
  int64_t* left = nullptr;       // on the device
  int64_t* left_host = nullptr;  // pinned: what a launch copies there
};

extern "C" int eft_while_supported(void) {
  int driver = 0;
  return cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12040;
}

extern "C" void eft_while_close(eft_while* loop) {
  if (!loop) return;
  const eft::RelaxedCapture
      relaxed;  // a garbage collector may come here in the middle of a capture
  if (loop->ended) {
    cudaEventSynchronize(loop->ended);
    cudaEventDestroy(loop->ended);
  }
  if (loop->executable) cudaGraphExecDestroy(loop->executable);
  if (loop->graph) cudaGraphDestroy(loop->graph);
  if (loop->left) cudaFree(loop->left);
  if (loop->left_host) cudaFreeHost(loop->left_host);
  cudaGetLastError();  // of a failed launch, which its own call has reported
  delete loop;
}

namespace eft {
namespace {

int build(const eft_advance& advance, cudaGraph_t step, eft_while* loop) {
  const RelaxedCapture relaxed;  // another thread may capture meanwhile
  cudaError_t error;
#define EFT_TRY(call) \
  if ((error = call) != cudaSuccess) return failed(#call, error)
  EFT_TRY(cudaMalloc(&loop->left, sizeof(int64_t)));
  EFT_TRY(cudaMallocHost(&loop->left_host, sizeof(int64_t)));
  EFT_TRY(cudaEventCreateWithFlags(&loop->ended, cudaEventDisableTiming));
  EFT_TRY(cudaGraphCreate(&loop->graph, 0));

  cudaGraphConditionalHandle handle;
  EFT_TRY(cudaGraphConditionalHandleCreate(&handle, loop->graph, 1, cudaGraphCondAssignDefault));
  cudaGraphNodeParams whiles = {};
  whiles.type = cudaGraphNodeTypeConditional;
  whiles.conditional.handle = handle;
  whiles.conditional.type = cudaGraphCondTypeWhile;
  whiles.conditional.size = 1;
  cudaGraphNode_t node;
  EFT_TRY(add_node(&node, loop->graph, &whiles));
  const cudaGraph_t body = whiles.conditional.phGraph_out[0];

  cudaGraphNode_t child, again;
  EFT_TRY(cudaGraphAddChildGraphNode(&child, body, nullptr, 0, step));
  const int64_t* active = advance.active;
  int64_t num_rows = advance.num_rows;
  int64_t* left = loop->left;
  void* arguments[] = {&active, &num_rows, &left, &handle};
  cudaKernelNodeParams kernel = {};
  kernel.func = reinterpret_cast<void*>(again_kernel);
  kernel.gridDim = dim3(1);
  kernel.blockDim = dim3(kThreads);
  kernel.kernelParams = arguments;
  EFT_TRY(cudaGraphAddKernelNode(&again, body, &child, 1, &kernel));
  EFT_TRY(cudaGraphInstantiate(&loop->executable, loop->graph, 0));
#undef EFT_TRY
  return EFT_OK;
}

}  // namespace
}  // namespace eft

extern "C" int eft_while_build(const eft_advance* advance, void* body, eft_while** loop) {
  eft_while* made = new (std::nothrow) eft_while;
  if (!made) return eft::fail(EFT_NO_MEMORY, "loop: no memory");
  const int code = eft::build(*advance, static_cast<cudaGraph_t>(body), made);
  if (code != EFT_OK) {
    eft_while_close(made);
    made = nullptr;
  }
  *loop = made;
  return code;
}

extern "C" int eft_while_launch(eft_while* loop, int64_t max_steps, void* stream) {
  const cudaStream_t s = static_cast<cudaStream_t>(stream);
  const eft::RelaxedCapture relaxed;
  *loop->left_host = max_steps;
  cudaError_t error =
      cudaMemcpyAsync(loop->left, loop->left_host, sizeof(int64_t), cudaMemcpyHostToDevice, s);
  if (error == cudaSuccess) error = cudaGraphLaunch(loop->executable, s);
  if (error == cudaSuccess) error = cudaEventRecord(loop->ended, s);
  return error == cudaSuccess ? EFT_OK : eft::failed("loop", error);
}

extern "C" int eft_while_poll(eft_while* loop) {
  const eft::RelaxedCapture relaxed;
  const cudaError_t error = cudaEventQuery(loop->ended);
  if (error == cudaErrorNotReady) return 1;
  return error == cudaSuccess ? 0 : -eft::failed("loop", error);
}

#else

namespace {
int too_old() {
  return eft::fail(EFT_UNSUPPORTED,
                   "loop: libeft was built with CUDA %d.%d, which has no WHILE nodes",
                   CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
}
}  // namespace
extern "C" int eft_while_supported(void) { return 0; }
extern "C" int eft_while_build(const eft_advance*, void*, eft_while**) { return too_old(); }
extern "C" int eft_while_launch(eft_while*, int64_t, void*) { return too_old(); }
extern "C" int eft_while_poll(eft_while*) { return -too_old(); }
extern "C" void eft_while_close(eft_while*) {}

#endif
