// What the runtime on the host knows of its callers and of what they have made; shared by its
// parts.
#ifndef EFT_EMULATOR_RUNTIME_STATE_H_
#define EFT_EMULATOR_RUNTIME_STATE_H_

#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "emulator/runtime/runtime.h"

namespace cuda_host {

struct Captured {
  Launch launch;
  std::function<void()> body;
};
struct Graph {
  std::vector<Captured> launches;
  std::vector<cudaUserObject_t> kept;
};
constexpr int kOnlyGraph = 1;  // of a test that has one at a time

struct BuiltGraph;  // by launch code: graphs.cpp
struct Condition {
  cudaGraph_t graph;
  unsigned at_launch, value;
  bool has_node, running;
};

// What belongs to one thread of the host.
struct Caller {
  int current = 0;                // the device where launches would be
  cudaStream_t stream = nullptr;  // where they have to come
  int capture = 0;                // the graph that they go into
  std::set<cudaStream_t> own;     // streams that launch code has made
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  cudaError_t last = cudaSuccess;
  std::string told;
};
Caller& caller();

struct State {
  std::recursive_mutex mutex;
  std::map<const void*, Kernel> kernels;
  std::map<std::pair<int, const void*>, int> loaded;  // shared memory that a launch may have
  int device = 0;                                     // where launches have to be
  std::map<int, Graph> graphs;                        // that were captured
  std::map<cudaGraph_t, std::shared_ptr<BuiltGraph>> built;
  std::map<cudaGraphConditionalHandle, Condition> conditions;
  std::map<const char*, size_t> memory, pinned;  // bytes at each address
  int made = kOnlyGraph;                         // the last number that was given
  int (*on_child)(int graph) = nullptr;
  int fail_after = -1, fail_load_after = -1;
  uint64_t seed = 0;
  eft_runtime_counts counts{};
  std::string faults;
};

// Until the end of the expression, or of the block that keeps it, no other thread has the state.
class Held {
 public:
  Held();
  State* operator->() const { return &state_; }

 private:
  State& state_;
  const std::lock_guard<std::recursive_mutex> lock_;
};
inline Held state() { return Held(); }

cudaError_t refuse(cudaError_t error, const std::string& why);
cudaError_t forbidden(const char* what);
// What another thread's capture forbids to all but the relaxed.
cudaError_t not_relaxed(const char* what);
// Work comes on the stream and the device that the test has named.
cudaError_t check_place(cudaStream_t stream);
inline bool relaxed() { return caller().mode == cudaStreamCaptureModeRelaxed; }

inline cudaGraph_t graph_of(int number) {
  return reinterpret_cast<cudaGraph_t>(static_cast<uintptr_t>(number));
}
inline int number_of(cudaGraph_t graph) { return int(reinterpret_cast<uintptr_t>(graph)); }

// Looks at a launch as the current device would; what it takes may then be run.
cudaError_t take(const cudaLaunchConfig_t& config, const void* kernel, void** arguments,
                 Captured& taken);
cudaError_t run_now(const Captured& launch);
cudaError_t run_captured(int graph, int64_t first, int64_t last);

}  // namespace cuda_host
#endif  // EFT_EMULATOR_RUNTIME_STATE_H_
