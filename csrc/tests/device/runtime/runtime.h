// The test's side of the runtime on the host: which kernels there are, what the caller of the
// launch code has set up, and what was wrong with its calls.
#ifndef EFT_TESTS_DEVICE_RUNTIME_RUNTIME_H_
#define EFT_TESTS_DEVICE_RUNTIME_RUNTIME_H_

#include <stdint.h>

#include <functional>

#include "eft.h"

namespace cuda_host {

// A kernel of one parameter, as all of ours are, and the threads of its __launch_bounds__.
struct Kernel {
  unsigned most_threads;
  std::function<std::function<void()>(const void* plan)> bind;  // copies what `plan` points to
};
bool know(const void* entry, const Kernel& kernel);

template <class Plan>
bool know(void (*kernel)(Plan), unsigned most_threads) {
  return know(reinterpret_cast<const void*>(kernel),
              Kernel{most_threads, [kernel](const void* at) {
                       const Plan plan = *static_cast<const Plan*>(at);
                       return [kernel, plan] { kernel(plan); };
                     }});
}

}  // namespace cuda_host

extern "C" {

// For the calls to come: the device that launches have to be on (0, 1, 2: what an H200, an A100 and
// a B200 say of themselves), which becomes the current one, the stream, whether that is captured.
// The graph that was captured before is destroyed.
EFT_API void eft_runtime_begin(int device, uint64_t stream, int capturing);
// As cudaSetDevice: the current device, and the one before.
EFT_API int eft_runtime_enter(int device);
// Runs what was captured since `begin`, again with each call.
EFT_API void eft_runtime_replay(void);
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
#endif  // EFT_TESTS_DEVICE_RUNTIME_RUNTIME_H_
