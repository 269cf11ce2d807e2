// Shared by the tests of the fake runtime: calls as launch code makes them, and checks of their
// faults.
#ifndef EFT_EMULATOR_TESTS_RUNTIME_CHECKS_H_
#define EFT_EMULATOR_TESTS_RUNTIME_CHECKS_H_

#include <cuda_runtime.h>

#include <string>

#include "emulator/runtime/runtime.h"
#include "tests/check.h"

void built_graphs();  // test_graph_loops.cpp
void events();

namespace {

const cudaStream_t kStream = reinterpret_cast<cudaStream_t>(0x5eed);

inline void begin(int device, bool capturing = false) {
  eft_runtime_begin(device, 0x5eed, capturing);
}

template <class Call>
cudaError_t relaxed(Call call) {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  const cudaError_t error = call();
  cudaThreadExchangeStreamCaptureMode(&mode);
  return error;
}

// True if a call was refused with this fault. Reads the last error, as launch code must.
inline bool refused(cudaError_t error, const char* why) {
  cudaGetLastError();
  const std::string said = eft_runtime_faults();
  if (said.find(why) == std::string::npos) printf("expected '%s', got '%s'\n", why, said.c_str());
  return error != cudaSuccess && said.find(why) != std::string::npos;
}
inline bool fine(cudaError_t error) { return error == cudaSuccess && *eft_runtime_faults() == 0; }

}  // namespace
#endif  // EFT_EMULATOR_TESTS_RUNTIME_CHECKS_H_
