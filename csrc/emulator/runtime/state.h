// State of the fake CUDA runtime, shared by its parts.
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

namespace simt {

struct DeviceProperties {
  int num_sms, major, minor, shared_bytes;
};
const DeviceProperties& current_device();

struct KernelLaunch {  // with copies of its arguments
  Launch launch;
  std::function<void()> body;
};
struct Graph {  // captured
  std::vector<KernelLaunch> launches;
  std::vector<cudaUserObject_t> user_objects;
};
constexpr int kDefaultGraph = 1;  // the graph of a test that has one at a time

struct BuiltGraph;  // built_graph.h
struct Condition {  // of a WHILE node
  cudaGraph_t graph;
  unsigned at_launch, value;
  bool has_node, running;
};

// State of one host thread.
struct Caller {
  int current = 0;                     // device
  cudaStream_t stream = nullptr;       // the one that launches must use
  int capture = 0;                     // the graph that launches go into; 0: they run
  std::set<cudaStream_t> own_streams;  // created by launch code
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  cudaError_t last = cudaSuccess;
  std::string reported;
};
Caller& caller();

struct State {
  std::recursive_mutex mutex;
  std::map<const void*, Kernel> kernels;
  std::map<std::pair<int, const void*>, int> loaded;  // to the shared memory that a launch may use
  int device = 0;                                     // the one that launches must be on
  std::map<int, Graph> graphs;                        // captured
  std::map<cudaGraph_t, std::shared_ptr<BuiltGraph>> built;
  std::map<cudaGraphConditionalHandle, Condition> conditions;
  std::map<const char*, size_t> memory, pinned;  // allocated bytes, by address
  int last_handle = kDefaultGraph;
  int (*child_runner)(int graph) = nullptr;
  int fail_after = -1, fail_load_after = -1;
  uint64_t seed = 0;
  eft_runtime_counts counts{};
  std::string faults;
};

// Locks the state for as long as the object lives.
class LockedState {
 public:
  LockedState();
  State* operator->() const { return &state_; }

 private:
  State& state_;
  const std::lock_guard<std::recursive_mutex> lock_;
};
inline LockedState state() { return LockedState(); }

// Records a fault and returns the error.
cudaError_t refuse(cudaError_t error, const std::string& why);
inline cudaError_t refuse_value(const std::string& why) {
  return refuse(cudaErrorInvalidValue, why);
}
// The fault of a call that launch code must not make, in a capture or at all.
cudaError_t forbidden(const char* what);
// The fault of a call that a capture in another thread allows only to threads in relaxed mode.
cudaError_t not_relaxed(const char* what);
// Checks that work comes on the stream and the device that the test has named.
cudaError_t check_stream(cudaStream_t stream);
inline bool relaxed() { return caller().mode == cudaStreamCaptureModeRelaxed; }

inline cudaGraph_t graph_of(int number) {
  return reinterpret_cast<cudaGraph_t>(static_cast<uintptr_t>(number));
}
inline int number_of(cudaGraph_t graph) { return int(reinterpret_cast<uintptr_t>(graph)); }

// Checks a launch against the current device; `checked` may then be run.
cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel, void** arguments,
                         KernelLaunch& checked);
cudaError_t run_launch(const KernelLaunch& launch);
cudaError_t run_captured(int graph, int64_t first, int64_t last);

}  // namespace simt
#endif  // EFT_EMULATOR_RUNTIME_STATE_H_
