// The step's launch code and kernels as they are, on the runtime of runtime/.
#include "cuda/resident.cu"
#include "cuda/step.cu"
#include "cuda/stream.cu"
#include "cuda/tickets.cu"
#include "tests/device/runtime/runtime.h"

namespace eft {
namespace {

template <int kFast>
bool know() {
  return cuda_host::know(stream_kernel<kFast, false>, kStreamThreads) &
         cuda_host::know(resident_kernel<kFast>, kResidentThreads);
}
const bool known = know<0>() & know<1>() & know<2>() & know<3>() & know<4>() &
                   cuda_host::know(stream_kernel<0, true>, kStreamThreads);

}  // namespace
}  // namespace eft
