// The step's launch code, unchanged; its kernels are registered in stream_launch.cpp
// and resident_launch.cpp.
#include "cuda/common/tickets.cu"
#include "cuda/step/step.cu"
