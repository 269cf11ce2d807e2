// Graphs: what a captured one keeps, and those that launch code builds of kernels, captured graphs
// and WHILE loops. A launch of such a graph runs it at once.
#include "emulator/runtime/state.h"

// What is held until its last reference goes.
struct CUuserObject_st {
  void* held;
  cudaHostFn_t destroy;
  unsigned references;
};

namespace cuda_host {

struct BuiltGraph {
  cudaGraph_t self;
  std::vector<cudaGraphNode_t> nodes;
  std::vector<std::function<cudaError_t()>> works;  // one for each node
  std::vector<std::shared_ptr<BuiltGraph>> bodies;  // of its loops
  bool is_body = false;

  ~BuiltGraph() {
    const Held s = state();
    for (auto at = s->conditions.begin(); at != s->conditions.end();) {
      at = at->second.graph == self ? s->conditions.erase(at) : std::next(at);
    }
  }
};

}  // namespace cuda_host

struct CUgraphExec_st {
  std::shared_ptr<cuda_host::BuiltGraph> graph;
};

namespace cuda_host {
namespace {

constexpr int kMostSteps = 10'000;  // more than this is taken for an endless loop

cudaError_t refuse_value(const std::string& why) { return refuse(cudaErrorInvalidValue, why); }

void release(cudaUserObject_t object, unsigned count) {
  if (object->references -= count) return;
  object->destroy(object->held);
  delete object;
}

std::shared_ptr<BuiltGraph> make() {
  const Held s = state();
  const auto made = std::make_shared<BuiltGraph>();
  made->self = graph_of(++s->made);
  return s->built[made->self] = made;
}

std::shared_ptr<BuiltGraph> find(cudaGraph_t graph) {
  const Held s = state();
  const auto found = s->built.find(graph);
  return found == s->built.end() ? nullptr : found->second;
}

// Behind the last node of `graph`: what is not ordered a device may run at the same time.
cudaError_t add(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                size_t num_after, std::function<cudaError_t()> work) {
  const auto to = find(graph);
  if (!to) return refuse_value("node: not into a graph that was created");
  const size_t expected = to->nodes.empty() ? 0 : 1;
  if (num_after != expected || (expected && after[0] != to->nodes.back())) {
    return refuse_value("node: expected to come after the last one");
  }
  *node = reinterpret_cast<cudaGraphNode_t>(static_cast<uintptr_t>(++state()->made));
  to->nodes.push_back(*node);
  to->works.push_back(std::move(work));
  return cudaSuccess;
}

cudaError_t run_all(const BuiltGraph& graph) {
  for (const auto& work : graph.works) {
    if (const cudaError_t error = work()) return error;
  }
  return cudaSuccess;
}

cudaError_t run_child(int graph) {
  const auto run = state()->on_child;
  if (!state()->graphs.count(graph)) {
    return refuse(cudaErrorLaunchFailure, "child graph: it has gone");
  }
  if (!run) return run_captured(graph, 0, eft_runtime_size(graph));
  if (run(graph)) return cudaSuccess;
  return refuse(cudaErrorLaunchFailure, "child graph: it could not be run");
}

cudaError_t run_while(cudaGraphConditionalHandle condition, const BuiltGraph& body) {
  for (int step = 0; state()->conditions[condition].value; ++step) {
    if (step == kMostSteps) return refuse(cudaErrorLaunchFailure, "WHILE: it does not end");
    if (const cudaError_t error = run_all(body)) return error;
  }
  return cudaSuccess;
}

// The conditions of a graph start anew with each launch, and are set by nobody else.
void set_running(const BuiltGraph& graph, bool running) {
  const Held s = state();
  for (auto& [handle, condition] : s->conditions) {
    if (condition.graph != graph.self) continue;
    condition.value = condition.at_launch;
    condition.running = running;
  }
}

}  // namespace
}  // namespace cuda_host

using namespace cuda_host;

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long*, cudaGraph_t* graph) {
  if (const cudaError_t error = check_place(stream)) return error;
  const int capture = caller().capture;
  *status = capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  if (capture) *graph = graph_of(capture);
  return cudaSuccess;
}

cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* held, cudaHostFn_t destroy,
                                 unsigned references, unsigned flags) {
  if (!destroy || references != 1 || flags != cudaUserObjectNoDestructorSync) {
    return refuse_value("cudaUserObjectCreate: an unknown use");
  }
  *object = new CUuserObject_st{held, destroy, references};
  return cudaSuccess;
}

cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned count) {
  release(object, count);
  return cudaSuccess;
}

cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned count,
                                      unsigned flags) {
  const int capture = caller().capture;
  if (!graph || graph != graph_of(capture) || count != 1 || flags != cudaGraphUserObjectMove) {
    return refuse_value("cudaGraphRetainUserObject: another graph");
  }
  state()->graphs[capture].kept.push_back(object);
  return cudaSuccess;
}

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned flags) {
  if (flags) return refuse_value("cudaGraphCreate: unknown flags");
  *graph = make()->self;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const auto gone = find(graph);
  if (!gone || gone->is_body) return refuse_value("cudaGraphDestroy: not one that was created");
  const Held s = state();
  for (const auto& body : gone->bodies) s->built.erase(body->self);
  s->built.erase(graph);
  return cudaSuccess;
}

cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle* handle, cudaGraph_t graph,
                                             unsigned at_launch, unsigned flags) {
  if (!find(graph) || flags != cudaGraphCondAssignDefault) {
    return refuse_value("cudaGraphConditionalHandleCreate: an unknown use");
  }
  const Held s = state();
  *handle = cudaGraphConditionalHandle(++s->made);
  s->conditions[*handle] = {graph, at_launch, 0, false, false};
  return cudaSuccess;
}

cudaError_t cudaGraphAddNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                             const cudaGraphEdgeData* edges, size_t num_after,
                             cudaGraphNodeParams* params) {
  cudaConditionalNodeParams& loop = params->conditional;
  if (params->type != cudaGraphNodeTypeConditional || loop.type != cudaGraphCondTypeWhile ||
      loop.size != 1 || edges) {
    return refuse_value("cudaGraphAddNode: expected a WHILE node");
  }
  const Held s = state();
  const auto condition = s->conditions.find(loop.handle);
  if (condition == s->conditions.end() || condition->second.graph != graph ||
      condition->second.has_node) {
    return refuse_value("cudaGraphAddNode: the condition of another node");
  }
  const auto body = make();
  const auto work = [body, handle = loop.handle] { return run_while(handle, *body); };
  if (const cudaError_t error = add(node, graph, after, num_after, work)) return error;
  body->is_body = condition->second.has_node = true;
  find(graph)->bodies.push_back(body);
  loop.phGraph_out = &body->self;
  return cudaSuccess;
}

cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                       const cudaGraphNode_t* after, size_t num_after,
                                       cudaGraph_t child) {
  const int number = number_of(child);
  if (!state()->graphs.count(number) || number == caller().capture) {
    return refuse_value("cudaGraphAddChildGraphNode: expected a graph that has been captured");
  }
  return add(node, graph, after, num_after, [number] { return run_child(number); });
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   const cudaGraphNode_t* after, size_t num_after,
                                   const cudaKernelNodeParams* params) {
  cudaFuncAttributes unused;
  if (const cudaError_t error = cudaFuncGetAttributes(&unused, params->func)) return error;
  const cudaLaunchConfig_t config{params->gridDim, params->blockDim, params->sharedMemBytes,
                                  nullptr,         nullptr,          0};
  Captured taken;
  const cudaError_t error = take(config, params->func, params->kernelParams, taken);
  if (error) return error;
  return add(node, graph, after, num_after, [taken] { return run_now(taken); });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags) {
  if (!relaxed()) return not_relaxed("cudaGraphInstantiate");
  const auto found = find(graph);
  if (!found || found->is_body || flags) return refuse_value("cudaGraphInstantiate: unknown use");
  const Held s = state();
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

// Nothing is held meanwhile: who runs a child may have to wait for another thread.
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (caller().capture) return forbidden("cudaGraphLaunch");
  cudaError_t error = check_place(stream);
  if (error) return error;
  const auto graph = executable->graph;
  set_running(*graph, true);
  error = run_all(*graph);
  set_running(*graph, false);
  return error;
}

void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned value) {
  const Held s = state();
  const auto found = s->conditions.find(handle);
  if (found == s->conditions.end() || !found->second.running) {
    fail("cudaGraphSetConditional: not in a launch of the graph that has it");
  }
  found->second.value = value;
}

extern "C" void eft_runtime_on_child(int (*run)(int graph)) { state()->on_child = run; }

extern "C" int eft_runtime_graph(void) {
  const Held s = state();
  s->graphs[++s->made];
  return s->made;
}

extern "C" void eft_runtime_drop(int graph) {
  const Held s = state();
  const auto found = s->graphs.find(graph);
  if (found == s->graphs.end()) return;
  const Graph gone = std::move(found->second);
  s->graphs.erase(found);
  for (cudaUserObject_t object : gone.kept) release(object, 1);
}

extern "C" int64_t eft_runtime_size(int graph) {
  const Held s = state();
  const auto found = s->graphs.find(graph);
  return found == s->graphs.end() ? 0 : int64_t(found->second.launches.size());
}
