// Shared by the runtime's own tests: calls as launch code makes them, and what is said of them.
#ifndef EFT_EMULATOR_TESTS_RUNTIME_CHECKS_H_
#define EFT_EMULATOR_TESTS_RUNTIME_CHECKS_H_

#include <cuda_runtime.h>

#include <string>

#include "emulator/runtime/runtime.h"
#include "tests/check.h"

void built_graphs();  // test_runtime_loops.cpp
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

// Refused, and this is what was said of it; the error is consulted, as launch code has to.
inline bool refused(cudaError_t error, const char* why) {
  cudaGetLastError();
  const std::string said = eft_runtime_faults();
  if (said.find(why) == std::string::npos) printf("expected '%s', got '%s'\n", why, said.c_str());
  return error != cudaSuccess && said.find(why) != std::string::npos;
}
inline bool fine(cudaError_t error) { return error == cudaSuccess && *eft_runtime_faults() == 0; }

}  // namespace
#endif  // EFT_EMULATOR_TESTS_RUNTIME_CHECKS_H_
