// The test's side of the runtime on the host: which kernels there are, what the caller of the
// launch code has set up, and what was wrong with its calls.
#ifndef EFT_EMULATOR_RUNTIME_RUNTIME_H_
#define EFT_EMULATOR_RUNTIME_RUNTIME_H_

#include <stdint.h>

#include <functional>
#include <tuple>
#include <utility>

#include "eft.h"

namespace cuda_host {

// A kernel, and the threads of its __launch_bounds__.
struct Kernel {
  unsigned most_threads;
  std::function<std::function<void()>(void** arguments)> bind;  // copies what they point to
};
bool know(const void* entry, const Kernel& kernel);

template <class... P, size_t... I>
std::function<void()> bound(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
  const std::tuple<P...> copies(*static_cast<const P*>(arguments[I])...);
  return [kernel, copies] { std::apply(kernel, copies); };
}

template <class... P>
bool know(void (*kernel)(P...), unsigned most_threads) {
  return know(reinterpret_cast<const void*>(kernel),
              Kernel{most_threads, [kernel](void** arguments) {
                       return bound(kernel, arguments, std::index_sequence_for<P...>());
                     }});
}

// The kernel with these parameters behind an entry point.
template <class... P>
auto kernel_at(const void* entry) {
  return reinterpret_cast<void (*)(P...)>(const_cast<void*>(entry));
}

}  // namespace cuda_host

extern "C" {

// Streams, captures and the current device belong to the thread that sets them.

// For the calls to come: the device that launches have to be on (0, 1, 2: what an H200, an A100 and
// a B200 say of themselves), which becomes the current one, the stream, whether that is captured.
// The graph that was captured before is destroyed.
EFT_API void eft_runtime_begin(int device, uint64_t stream, int capturing);
// As cudaSetDevice: the current device, and the one before.
EFT_API int eft_runtime_enter(int device);
// Runs what was captured since `begin`, again with each call.
EFT_API void eft_runtime_replay(void);
// Several graphs: launches come on this stream from now on, and go into this graph; 0: they run.
EFT_API void eft_runtime_stream(uint64_t stream, int graph);
EFT_API int eft_runtime_graph(void);  // a new one, whose number is its cudaGraph_t
EFT_API void eft_runtime_drop(int graph);
EFT_API int64_t eft_runtime_size(int graph);  // its launches
EFT_API void eft_runtime_run(int graph, int64_t first, int64_t last);
// Runs a graph that is a child of another one, in the place of its launches alone; 0: it could not.
EFT_API void eft_runtime_on_child(int (*run)(int graph));
// The launch after the next `number` ones fails, as for want of resources.
EFT_API void eft_runtime_fail_launch(int number);
// The same for loading a kernel.
EFT_API void eft_runtime_fail_load(int number);
// What was wrong since the last question, a line each; empty where nothing was.
EFT_API const char* eft_runtime_faults(void);

typedef struct {
  int64_t launches;  // since `begin`
  int64_t clusters;  // launches of clusters among them
  int64_t rows;      // the largest gridDim.y
  int64_t allocations;
} eft_runtime_counts;
EFT_API eft_runtime_counts eft_runtime_count(void);

}  // extern "C"
#endif  // EFT_EMULATOR_RUNTIME_RUNTIME_H_
