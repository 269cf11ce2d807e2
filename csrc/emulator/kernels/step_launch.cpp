// The step's launch code as it is, on the runtime of runtime/; its kernels are in stream_launch.cpp
// and resident_launch.cpp.
#include "cuda/common/tickets.cu"
#include "cuda/step/step.cu"
