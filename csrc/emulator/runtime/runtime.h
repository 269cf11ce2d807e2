// The test's interface to the fake CUDA runtime: it registers kernels, sets up the device, stream
// and capture of the calls to come, and asks for the faults found.
#ifndef EFT_EMULATOR_RUNTIME_RUNTIME_H_
#define EFT_EMULATOR_RUNTIME_RUNTIME_H_

#include <stdint.h>

#include <functional>
#include <tuple>
#include <utility>

#include "eft.h"

namespace simt {

// A kernel with the threads of its __launch_bounds__.
struct Kernel {
  unsigned max_threads;
  std::function<std::function<void()>(void** arguments)> bind;  // copies the arguments
};
bool register_kernel(const void* entry, const Kernel& kernel);

template <class... P, size_t... I>
std::function<void()> bind_arguments(void (*kernel)(P...), void** arguments,
                                     std::index_sequence<I...>) {
  const std::tuple<P...> copies(*static_cast<const P*>(arguments[I])...);
  return [kernel, copies] { std::apply(kernel, copies); };
}

template <class... P>
bool register_kernel(void (*kernel)(P...), unsigned max_threads) {
  return register_kernel(reinterpret_cast<const void*>(kernel),
                         Kernel{max_threads, [kernel](void** arguments) {
                                  return bind_arguments(kernel, arguments,
                                                        std::index_sequence_for<P...>());
                                }});
}

// Casts an entry point to the kernel with these parameters.
template <class... P>
auto kernel_at(const void* entry) {
  return reinterpret_cast<void (*)(P...)>(const_cast<void*>(entry));
}

}  // namespace simt

extern "C" {

// Streams, captures and the current device belong to the thread that sets them.

// Sets up the calls to come: the device that launches must be on, which becomes the current one (0,
// 1, 2: with the properties of an H200, an A100 and a B200), the stream, and whether that is
// captured. Destroys the graph that was captured before.
EFT_API void eft_runtime_begin(int device, uint64_t stream, int capturing);
// Sets the current device, as cudaSetDevice does, and returns the one before.
EFT_API int eft_runtime_enter(int device);
// Replays the launches captured since `begin`.
EFT_API void eft_runtime_replay(void);
// For several graphs: launches must use this stream from now on, and go into this graph; 0: they
// run.
EFT_API void eft_runtime_stream(uint64_t stream, int graph);
EFT_API int eft_runtime_graph(
    void);  // creates one and returns its number, which is its cudaGraph_t
EFT_API void eft_runtime_drop(int graph);
EFT_API int64_t eft_runtime_size(int graph);  // returns the number of its launches
EFT_API void eft_runtime_run(int graph, int64_t first, int64_t last);
// Sets a function that runs a graph as a child node, in place of its launches alone; it returns 0
// on failure.
EFT_API void eft_runtime_on_child(int (*run)(int graph));
// Makes the launch after the next `number` ones fail for lack of resources.
EFT_API void eft_runtime_fail_launch(int number);
// Makes a load of a kernel fail, in the same way.
EFT_API void eft_runtime_fail_load(int number);
// Returns the faults found since the last call, a line each.
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
