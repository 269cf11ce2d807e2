// Shared by the entry points: checks the workspace, launches a kernel, turns a CUDA error into
// eft's.
#ifndef EFT_CUDA_COMMON_LAUNCH_H_
#define EFT_CUDA_COMMON_LAUNCH_H_

#include <cuda_runtime.h>

#include "common/error.h"

namespace eft {
namespace {

inline int check_workspace(const void* workspace, uint64_t bytes, uint64_t wanted) {
  if (workspace && bytes >= wanted && reinterpret_cast<uintptr_t>(workspace) % 16 == 0) {
    return EFT_OK;
  }
  return fail(EFT_BAD_ARGUMENT, "workspace: expected %llu bytes, 16-byte aligned, got %llu at %p",
              (unsigned long long)wanted, (unsigned long long)bytes, workspace);
}

// A kernel with one parameter, `plan`, on a grid of (blocks a row, rows).
inline cudaError_t launch(const void* entry, const void* plan, int blocks, int64_t rows,
                          int threads, int64_t shared_bytes, cudaStream_t stream) {
  void* arguments[] = {const_cast<void*>(plan)};
  return cudaLaunchKernel(entry, dim3(unsigned(blocks), unsigned(rows)), dim3(unsigned(threads)),
                          arguments, size_t(shared_bytes), stream);
}

inline int status_of(cudaError_t error) {
  if (error == cudaSuccess) return EFT_OK;
  cudaGetLastError();  // a failed launch must not be found by the next caller of the runtime
  return fail(EFT_DEVICE_ERROR, "cuda: %s", cudaGetErrorString(error));
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_LAUNCH_H_
