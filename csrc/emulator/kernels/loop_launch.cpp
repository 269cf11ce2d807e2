// The advance's and the loop's launch code, unchanged; their kernels are registered with the fake
// runtime.
#include "cuda/loop/while_loop.cu"
#include "emulator/runtime/runtime.h"

namespace eft {
namespace {

const bool registered =
    simt::register_kernel(advance_kernel, kThreads) & simt::register_kernel(again_kernel, kThreads);

}  // namespace
}  // namespace eft
