// Instantiates and launches the graphs of graph_build.cpp. A launch runs at once.
#include "emulator/runtime/built_graph.h"

namespace simt {
namespace {

constexpr int kMaxIterations = 10'000;  // a launch with more counts as an endless loop

cudaError_t run_nodes(const BuiltGraph& graph) {
  for (const auto& action : graph.actions) {
    if (const cudaError_t error = action()) return error;
  }
  return cudaSuccess;
}

// Resets the conditions of a graph; only kernels of a running launch may set them.
void set_running(const BuiltGraph& graph, bool running) {
  const LockedState s = state();
  for (auto& [handle, condition] : s->conditions) {
    if (condition.graph != graph.self) continue;
    condition.value = condition.at_launch;
    condition.running = running;
  }
}

}  // namespace

cudaError_t run_child(int graph) {
  const auto run = state()->child_runner;
  if (!state()->graphs.count(graph)) {
    return refuse(cudaErrorLaunchFailure, "child graph: it has gone");
  }
  if (!run) return run_captured(graph, 0, eft_runtime_size(graph));
  if (run(graph)) return cudaSuccess;
  return refuse(cudaErrorLaunchFailure, "child graph: it could not be run");
}

cudaError_t run_while(cudaGraphConditionalHandle condition, const BuiltGraph& body) {
  for (int step = 0; state()->conditions[condition].value; ++step) {
    if (step == kMaxIterations) return refuse(cudaErrorLaunchFailure, "WHILE: it does not end");
    if (const cudaError_t error = run_nodes(body)) return error;
  }
  return cudaSuccess;
}

}  // namespace simt

using namespace simt;

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags) {
  if (!relaxed()) return not_relaxed("cudaGraphInstantiate");
  const auto found = find_graph(graph);
  if (!found || found->is_body || flags) return refuse_value("cudaGraphInstantiate: unknown use");
  const LockedState s = state();
  for (const auto& [handle, condition] : s->conditions) {
    if (condition.graph == graph && !condition.has_node) {
      return refuse_value("cudaGraphInstantiate: a condition has no node");
    }
  }
  *executable = new CUgraphExec_st{found};
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  if (!relaxed()) return not_relaxed("cudaGraphExecDestroy");
  delete executable;
  return cudaSuccess;
}

// Runs without the lock: the runner of a child graph may have to wait for another thread.
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (caller().capture) return forbidden("cudaGraphLaunch");
  cudaError_t error = check_stream(stream);
  if (error) return error;
  const auto graph = executable->graph;
  set_running(*graph, true);
  error = run_nodes(*graph);
  set_running(*graph, false);
  return error;
}

void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned value) {
  const LockedState s = state();
  const auto found = s->conditions.find(handle);
  if (found == s->conditions.end() || !found->second.running) {
    fail("cudaGraphSetConditional: not in a launch of the graph that has it");
  }
  found->second.value = value;
}

extern "C" void eft_runtime_on_child(int (*run)(int graph)) { state()->child_runner = run; }
