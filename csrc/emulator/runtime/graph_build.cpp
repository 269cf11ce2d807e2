// Builds graphs: nodes, conditions and loop bodies.
#include "emulator/runtime/built_graph.h"

namespace simt {

BuiltGraph::~BuiltGraph() {
  const LockedState s = state();
  for (auto at = s->conditions.begin(); at != s->conditions.end();) {
    at = at->second.graph == self ? s->conditions.erase(at) : std::next(at);
  }
}

std::shared_ptr<BuiltGraph> find_graph(cudaGraph_t graph) {
  const LockedState s = state();
  const auto found = s->built.find(graph);
  return found == s->built.end() ? nullptr : found->second;
}

namespace {

std::shared_ptr<BuiltGraph> create_graph() {
  const LockedState s = state();
  const auto made = std::make_shared<BuiltGraph>();
  made->self = graph_of(++s->last_handle);
  return s->built[made->self] = made;
}

// Appends a node after the last one. A device may run nodes that are not ordered at the same time,
// so any other place is refused.
cudaError_t add_node(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* after,
                     size_t num_after, std::function<cudaError_t()> action) {
  const auto to = find_graph(graph);
  if (!to) return refuse_value("node: not into a graph that was created");
  const size_t expected = to->nodes.empty() ? 0 : 1;
  if (num_after != expected || (expected && after[0] != to->nodes.back())) {
    return refuse_value("node: expected to come after the last one");
  }
  *node = reinterpret_cast<cudaGraphNode_t>(static_cast<uintptr_t>(++state()->last_handle));
  to->nodes.push_back(*node);
  to->actions.push_back(std::move(action));
  return cudaSuccess;
}

}  // namespace
}  // namespace simt

using namespace simt;

cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned flags) {
  if (flags) return refuse_value("cudaGraphCreate: unknown flags");
  *graph = create_graph()->self;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const auto gone = find_graph(graph);
  if (!gone || gone->is_body) return refuse_value("cudaGraphDestroy: not one that was created");
  const LockedState s = state();
  for (const auto& body : gone->bodies) s->built.erase(body->self);
  s->built.erase(graph);
  return cudaSuccess;
}

cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle* handle, cudaGraph_t graph,
                                             unsigned at_launch, unsigned flags) {
  if (!find_graph(graph) || flags != cudaGraphCondAssignDefault) {
    return refuse_value("cudaGraphConditionalHandleCreate: an unknown use");
  }
  const LockedState s = state();
  *handle = cudaGraphConditionalHandle(++s->last_handle);
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
  const LockedState s = state();
  const auto condition = s->conditions.find(loop.handle);
  if (condition == s->conditions.end() || condition->second.graph != graph ||
      condition->second.has_node) {
    return refuse_value("cudaGraphAddNode: the condition of another node");
  }
  const auto body = create_graph();
  const auto action = [body, handle = loop.handle] { return run_while(handle, *body); };
  if (const cudaError_t error = add_node(node, graph, after, num_after, action)) return error;
  body->is_body = condition->second.has_node = true;
  find_graph(graph)->bodies.push_back(body);
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
  return add_node(node, graph, after, num_after, [number] { return run_child(number); });
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   const cudaGraphNode_t* after, size_t num_after,
                                   const cudaKernelNodeParams* params) {
  cudaFuncAttributes unused;
  if (const cudaError_t error = cudaFuncGetAttributes(&unused, params->func)) return error;
  const cudaLaunchConfig_t config{params->gridDim, params->blockDim, params->sharedMemBytes,
                                  nullptr,         nullptr,          0};
  KernelLaunch checked;
  const cudaError_t error = check_launch(config, params->func, params->kernelParams, checked);
  if (error) return error;
  return add_node(node, graph, after, num_after, [checked] { return run_launch(checked); });
}
