// Graphs that launch code builds of kernels, captured graphs and WHILE loops.
#ifndef EFT_EMULATOR_RUNTIME_BUILT_GRAPH_H_
#define EFT_EMULATOR_RUNTIME_BUILT_GRAPH_H_

#include "emulator/runtime/state.h"

namespace simt {

struct BuiltGraph {
  cudaGraph_t self;
  std::vector<cudaGraphNode_t> nodes;
  std::vector<std::function<cudaError_t()>> actions;  // one for each node
  std::vector<std::shared_ptr<BuiltGraph>> bodies;    // of its loops
  bool is_body = false;

  ~BuiltGraph();
};

std::shared_ptr<BuiltGraph> find_graph(cudaGraph_t graph);

// Actions of the nodes that are not kernels.
cudaError_t run_child(int graph);
cudaError_t run_while(cudaGraphConditionalHandle condition, const BuiltGraph& body);

}  // namespace simt

struct CUgraphExec_st {
  std::shared_ptr<simt::BuiltGraph> graph;
};

#endif  // EFT_EMULATOR_RUNTIME_BUILT_GRAPH_H_
