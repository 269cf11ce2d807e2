// The fake CUDA runtime: each planted mistake of launch code is refused and named.
#include "emulator/tests/runtime_checks.h"

namespace {

struct Numbers {
  int* sum;
  int one;
};
__global__ void add(Numbers n) { atomicAdd(n.sum, n.one); }
__global__ void hangs(Numbers) {
  if (threadIdx.x) __syncthreads();
}
const bool registered = simt::register_kernel(add, 64) & simt::register_kernel(hangs, 64);

const void* const kAdd = reinterpret_cast<const void*>(add);
const void* const kHangs = reinterpret_cast<const void*>(hangs);
constexpr int kBytes = 100 * 1024;

cudaError_t load(const void* kernel) {
  cudaFuncAttributes unused;
  return relaxed([&] { return cudaFuncGetAttributes(&unused, kernel); });
}

cudaError_t limit(const void* kernel, int bytes) {
  const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
  return relaxed([&] { return cudaFuncSetAttribute(kernel, most, bytes); });
}

int sum;
cudaError_t launch(const void* kernel, dim3 grid, dim3 block, size_t shared = 0,
                   unsigned cluster = 0, cudaStream_t stream = kStream) {
  Numbers numbers{&sum, 1};
  void* arguments[] = {&numbers};
  cudaLaunchAttribute attribute{cudaLaunchAttributeClusterDimension, {{cluster, 1, 1}}};
  cudaLaunchConfig_t config{grid, block, shared, stream, &attribute, cluster ? 1u : 0u};
  const cudaError_t error = cudaLaunchKernelExC(&config, kernel, arguments);
  numbers = {nullptr, 0};  // a launch has copied its arguments
  return error;
}

void loading() {
  begin(0);
  CHECK(refused(launch(kAdd, 1, 32), "not loaded on this device"));
  cudaFuncAttributes unused;
  CHECK(refused(cudaFuncGetAttributes(&unused, kAdd), "cudaFuncGetAttributes: not relaxed"));
  int value;
  CHECK(refused(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0), "not relaxed"));
  const auto most = cudaFuncAttributeMaxDynamicSharedMemorySize;
  CHECK(refused(cudaFuncSetAttribute(kAdd, most, 0), "cudaFuncSetAttribute: not relaxed"));
  eft_runtime_fail_load(0);
  CHECK(load(kAdd) == cudaErrorLaunchFailure && cudaGetLastError() == cudaErrorLaunchFailure);
  CHECK(fine(load(kAdd)) && fine(load(kHangs)) && refused(load(&sum), "unknown kernel"));
  CHECK(fine(launch(kAdd, 1, 32)) && sum == 32);
  begin(1);
  CHECK(refused(launch(kAdd, 1, 32), "not loaded on this device"));
  CHECK(fine(load(kAdd)) && fine(launch(kAdd, 1, 32)));
}

void shapes() {
  begin(0);
  CHECK(refused(launch(kAdd, 1, 65), "block: expected 1 to 64 threads"));
  CHECK(refused(launch(kAdd, 1, dim3(32, 2)), "block:"));
  CHECK(refused(launch(kAdd, dim3(1, 65536), 32), "grid:"));
  CHECK(refused(launch(kAdd, 0, 32), "grid:"));
  CHECK(fine(launch(kAdd, 1, 32, 48 * 1024)));
  CHECK(refused(launch(kAdd, 1, 32, 48 * 1024 + 1), "shared memory: expected at most 49152"));
  CHECK(refused(limit(kAdd, 232449), "expected at most 232448"));
  CHECK(fine(limit(kAdd, kBytes)) && fine(launch(kAdd, 1, 32, kBytes)));
  begin(1);  // asked for on another device
  CHECK(refused(launch(kAdd, 1, 32, kBytes), "shared memory: expected at most 49152"));
}

void clusters() {
  begin(0);
  CHECK(fine(launch(kAdd, 16, 32, 0, 8)) && eft_runtime_count().clusters == 1);
  CHECK(refused(launch(kAdd, 16, 32, 0, 16), "cluster: expected 1 to 8"));
  CHECK(refused(launch(kAdd, 3, 32, 0, 2), "cluster:"));
  begin(1);
  CHECK(refused(launch(kAdd, 2, 32, 0, 2), "this device has none"));
}

void captures() {
  begin(0, true);
  sum = 0;
  CHECK(fine(launch(kAdd, 2, 32)) && sum == 0);
  eft_runtime_replay();
  eft_runtime_replay();
  CHECK(sum == 128 && fine(cudaSuccess));
  void* memory;
  CHECK(refused(cudaMalloc(&memory, 8), "cudaMalloc: called during a capture"));
  CHECK(refused(cudaFree(nullptr), "cudaFree: called"));
  CHECK(refused(cudaStreamSynchronize(kStream), "cudaStreamSynchronize: called during"));
  CHECK(refused(cudaDeviceSynchronize(), "cudaDeviceSynchronize: called during"));
}

int destroyed;
void destroy(void* by) { destroyed += *static_cast<int*>(by); }

// A graph owns its user objects: they are destroyed with it.
void graphs() {
  begin(0);
  cudaStreamCaptureStatus status;
  cudaGraph_t graph = nullptr;
  CHECK(fine(cudaStreamGetCaptureInfo(kStream, &status, nullptr, &graph)));
  CHECK(status == cudaStreamCaptureStatusNone && !graph);
  begin(0, true);
  CHECK(fine(cudaStreamGetCaptureInfo(kStream, &status, nullptr, &graph)));
  CHECK(status == cudaStreamCaptureStatusActive && graph);
  CHECK(refused(cudaStreamGetCaptureInfo(nullptr, &status, nullptr, &graph), "another one"));
  int by = 1;
  cudaUserObject_t kept, dropped;
  const auto flags = cudaUserObjectNoDestructorSync;
  CHECK(fine(cudaUserObjectCreate(&kept, &by, destroy, 1, flags)));
  CHECK(fine(cudaUserObjectCreate(&dropped, &by, destroy, 1, flags)));
  CHECK(fine(cudaUserObjectRelease(dropped, 1)) && destroyed == 1);
  CHECK(refused(cudaGraphRetainUserObject(nullptr, kept, 1, 1), "another graph"));
  CHECK(fine(cudaGraphRetainUserObject(graph, kept, 1, cudaGraphUserObjectMove)));
  eft_runtime_replay();
  CHECK(destroyed == 1);
  begin(0);
  CHECK(destroyed == 2);
}

// Two graphs at once, and a part of one replayed.
void several_graphs() {
  begin(0);
  sum = 0;
  const int one = eft_runtime_graph(), two = eft_runtime_graph();
  for (const int graph : {one, two, one}) {
    eft_runtime_stream(0x5eed, graph);
    CHECK(fine(launch(kAdd, graph == one ? 1 : 2, 32)));
  }
  eft_runtime_stream(0x5eed, 0);
  CHECK(sum == 0 && eft_runtime_size(one) == 2 && eft_runtime_size(two) == 1);
  eft_runtime_run(one, 1, 2);
  eft_runtime_run(two, 0, 1);
  CHECK(sum == 96 && fine(launch(kAdd, 1, 32)) && sum == 128);
  eft_runtime_drop(one);
  CHECK(eft_runtime_size(one) == 0 && eft_runtime_size(two) == 1);
}

// A thread in relaxed mode may allocate, and wait for streams of its own.
void memory() {
  begin(0, true);
  void* bytes;
  cudaStream_t own;
  CHECK(fine(relaxed([&] { return cudaMalloc(&bytes, 8); })) && eft_runtime_count().allocations);
  CHECK(refused(cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking), "not relaxed"));
  CHECK(refused(relaxed([&] { return cudaStreamCreateWithFlags(&own, 0); }), "wait for other"));
  CHECK(relaxed([&] { return cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking); }) == 0);
  CHECK(std::string(eft_runtime_faults()) == "streams: not destroyed\n");
  CHECK(cudaMemsetAsync(bytes, 7, 8, own) == 0 && static_cast<char*>(bytes)[7] == 7);
  CHECK(relaxed([&] { return cudaStreamSynchronize(own); }) == 0 && cudaStreamDestroy(own) == 0);
  CHECK(refused(cudaMemsetAsync(bytes, 0, 8, kStream), "cudaMemsetAsync: called during"));
  CHECK(refused(relaxed([&] { return cudaStreamSynchronize(kStream); }), "cudaStreamSynchronize"));
  CHECK(fine(relaxed([&] { return cudaFree(bytes); })));
}

void errors() {
  begin(0);
  CHECK(refused(launch(kAdd, 1, 32, 0, 0, nullptr), "stream: another one"));
  eft_runtime_enter(1);
  CHECK(refused(launch(kAdd, 1, 32), "device: another one"));
  CHECK(eft_runtime_enter(0) == 1);
  CHECK(refused(launch(kHangs, 1, 32), "deadlock"));
  eft_runtime_fail_launch(1);
  CHECK(fine(launch(kAdd, 1, 32)) && launch(kAdd, 1, 32) == cudaErrorLaunchOutOfResources);
  CHECK(std::string(eft_runtime_faults()).find("left for the next caller") != std::string::npos);
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  CHECK(std::string(eft_runtime_faults()) == "capture mode: not as it was\n");
  CHECK(fine(launch(kAdd, 1, 32)));
}

}  // namespace

int main() {
  loading();
  shapes();
  clusters();
  captures();
  graphs();
  several_graphs();
  built_graphs();
  events();
  memory();
  errors();
  printf("runtime: %d failures\n", failures);
  return failures != 0;
}
