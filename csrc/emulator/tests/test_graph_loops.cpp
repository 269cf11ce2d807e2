// Graphs with WHILE loops that launch code builds, and their events and copies, on the fake
// runtime.
#include "emulator/runtime/state.h"
#include "emulator/tests/runtime_checks.h"

namespace {

struct Numbers {
  int* sum;
  int one;
};
__global__ void add(Numbers n) { atomicAdd(n.sum, n.one); }
__global__ void count_down(int* left, cudaGraphConditionalHandle condition) {
  if (threadIdx.x == 0) cudaGraphSetConditional(condition, --*left > 0);
}
const bool registered = simt::register_kernel(add, 64) & simt::register_kernel(count_down, 64);

int sum;
void capture_into(int graph) {
  eft_runtime_stream(0x5eed, graph);
  Numbers numbers{&sum, 1};
  void* arguments[] = {&numbers};
  const void* const kernel = reinterpret_cast<const void*>(add);
  cudaFuncAttributes unused;
  CHECK(fine(relaxed([&] { return cudaFuncGetAttributes(&unused, kernel); })));
  CHECK(fine(cudaLaunchKernel(kernel, 1, 32, arguments, 0, kStream)));
  eft_runtime_stream(0x5eed, 0);
}

// A WHILE node whose body is `step`, then the kernel that counts down.
struct Loop {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaGraphConditionalHandle condition;
  cudaGraphNode_t node, child, again;
  cudaGraph_t body = nullptr;

  explicit Loop(bool with_node = true) {
    CHECK(fine(cudaGraphCreate(&graph, 0)));
    CHECK(fine(cudaGraphConditionalHandleCreate(&condition, graph, 1, cudaGraphCondAssignDefault)));
    cudaGraphNodeParams whiles = {};
    whiles.type = cudaGraphNodeTypeConditional;
    whiles.conditional = {condition, cudaGraphCondTypeWhile, 1, nullptr};
    if (!with_node) return;
    CHECK(fine(cudaGraphAddNode(&node, graph, nullptr, nullptr, 0, &whiles)));
    body = whiles.conditional.phGraph_out[0];
    CHECK(refused(cudaGraphAddNode(&node, graph, &node, nullptr, 1, &whiles), "of another node"));
  }
  ~Loop() {
    CHECK(fine(relaxed([&] { return cudaGraphExecDestroy(executable); })));
    CHECK(fine(cudaGraphDestroy(graph)) && refused(cudaGraphDestroy(graph), "not one that was"));
  }
  cudaError_t add_child(int step) {
    return cudaGraphAddChildGraphNode(&child, body, nullptr, 0, simt::graph_of(step));
  }
  cudaError_t add_kernel(int* left, size_t num_after = 1) {
    void* arguments[] = {&left, &condition};
    cudaKernelNodeParams kernel = {};
    kernel.func = reinterpret_cast<void*>(count_down);
    kernel.kernelParams = arguments;
    return relaxed(
        [&] { return cudaGraphAddKernelNode(&again, body, &child, num_after, &kernel); });
  }
  cudaError_t instantiate() {
    return relaxed([&] { return cudaGraphInstantiate(&executable, graph, 0); });
  }
};

int step_to_run;
int run_step(int graph) {
  eft_runtime_run(graph, 0, eft_runtime_size(graph));
  return graph == step_to_run;
}

}  // namespace

void built_graphs() {
  begin(0);
  const int step = eft_runtime_graph();
  capture_into(step);
  int left = 3;
  Loop loop;
  CHECK(refused(loop.add_child(step + 100), "expected a graph that has been captured"));
  CHECK(fine(loop.add_child(step)));
  CHECK(refused(loop.add_kernel(&left, 0), "expected to come after the last one"));
  CHECK(fine(loop.add_kernel(&left)));
  CHECK(refused(cudaGraphInstantiate(&loop.executable, loop.graph, 0), "not relaxed"));
  CHECK(fine(loop.instantiate()));
  sum = 0;
  CHECK(fine(cudaGraphLaunch(loop.executable, kStream)) && left == 0 && sum == 3 * 32);
  CHECK(refused(cudaGraphLaunch(loop.executable, nullptr), "stream: another one"));
  eft_runtime_on_child(run_step);
  left = 2;
  step_to_run = step;
  CHECK(fine(cudaGraphLaunch(loop.executable, kStream)) && left == 0 && sum == 5 * 32);
  step_to_run = 0;
  CHECK(refused(cudaGraphLaunch(loop.executable, kStream), "it could not be run"));
  eft_runtime_on_child(nullptr);
  left = 1 << 20;
  CHECK(refused(cudaGraphLaunch(loop.executable, kStream), "does not end"));
  eft_runtime_drop(step);
  CHECK(refused(cudaGraphLaunch(loop.executable, kStream), "child graph: it has gone"));
  int* at = &left;
  void* arguments[] = {&at, &loop.condition};
  const void* const kernel = reinterpret_cast<const void*>(count_down);
  CHECK(refused(cudaLaunchKernel(kernel, 1, 1, arguments, 0, kStream), "not in a launch of"));
  Loop without_node(false);
  CHECK(refused(without_node.instantiate(), "a condition has no node"));
}

// Events are not ready at the first query; copies go from pinned memory to the device's.
void events() {
  begin(0);
  cudaEvent_t event;
  CHECK(refused(cudaEventCreateWithFlags(&event, 0), "would take the time"));
  CHECK(fine(cudaEventCreateWithFlags(&event, cudaEventDisableTiming)));
  CHECK(refused(cudaEventRecord(event, nullptr), "stream: another one"));
  CHECK(fine(cudaEventRecord(event, kStream)));
  CHECK(refused(cudaEventQuery(event), "cudaEventQuery: not relaxed"));
  CHECK(relaxed([&] { return cudaEventQuery(event); }) == cudaErrorNotReady);
  CHECK(fine(relaxed([&] { return cudaEventQuery(event); })) && fine(cudaEventDestroy(event)));
  int *device, *pinned, plain = 7;
  CHECK(refused(cudaMallocHost(&pinned, 4), "cudaMallocHost: called"));
  CHECK(fine(relaxed([&] { return cudaMallocHost(&pinned, 4); })));
  CHECK(fine(relaxed([&] { return cudaMalloc(&device, 4); })));
  *pinned = 7;
  const auto copy = [&](const int* from, size_t bytes) {
    return cudaMemcpyAsync(device, from, bytes, cudaMemcpyHostToDevice, kStream);
  };
  CHECK(fine(copy(pinned, 4)) && *device == 7);
  CHECK(refused(copy(&plain, 4), "not from pinned") && refused(copy(pinned, 8), "not from pinned"));
  CHECK(refused(relaxed([&] { return cudaFree(pinned); }), "not memory of this kind"));
  CHECK(fine(relaxed([&] { return cudaFreeHost(pinned); })));
  CHECK(fine(relaxed([&] { return cudaFree(device); })));
}
