// Captured graphs: their launches, their replays, and the user objects that they own.
#include "emulator/runtime/state.h"

// An object that is destroyed with its last reference.
struct CUuserObject_st {
  void* held;
  cudaHostFn_t destroy;
  unsigned references;
};

namespace simt {
namespace {

void release(cudaUserObject_t object, unsigned count) {
  if (object->references -= count) return;
  object->destroy(object->held);
  delete object;
}

}  // namespace

cudaError_t run_captured(int graph, int64_t first, int64_t last) {
  cudaError_t error = cudaSuccess;
  const LockedState s = state();
  for (int64_t i = first; i < last && !error; ++i) {
    error = run_launch(s->graphs[graph].launches[size_t(i)]);
  }
  return error;
}

}  // namespace simt

using namespace simt;

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long*, cudaGraph_t* graph) {
  if (const cudaError_t error = check_stream(stream)) return error;
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
  state()->graphs[capture].user_objects.push_back(object);
  return cudaSuccess;
}

extern "C" int eft_runtime_graph(void) {
  const LockedState s = state();
  s->graphs[++s->last_handle];
  return s->last_handle;
}

extern "C" void eft_runtime_drop(int graph) {
  const LockedState s = state();
  const auto found = s->graphs.find(graph);
  if (found == s->graphs.end()) return;
  const Graph gone = std::move(found->second);
  s->graphs.erase(found);
  for (cudaUserObject_t object : gone.user_objects) release(object, 1);
}

extern "C" int64_t eft_runtime_size(int graph) {
  const LockedState s = state();
  const auto found = s->graphs.find(graph);
  return found == s->graphs.end() ? 0 : int64_t(found->second.launches.size());
}

extern "C" void eft_runtime_run(int graph, int64_t first, int64_t last) {
  run_captured(graph, first, last);
}

extern "C" void eft_runtime_replay(void) {
  eft_runtime_run(kDefaultGraph, 0, eft_runtime_size(kDefaultGraph));
}
