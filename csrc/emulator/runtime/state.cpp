// The runtime's state, its checks of the caller, its errors, and the test's control over it
// (runtime.h).
#include "emulator/runtime/state.h"

namespace simt {
namespace {

State& shared_state() {
  static State* const made = new State;  // from before main on: kernels are registered there
  return *made;
}

}  // namespace

LockedState::LockedState() : state_(shared_state()), lock_(state_.mutex) {}

Caller& caller() {
  static thread_local Caller made;
  return made;
}

cudaError_t refuse(cudaError_t error, const std::string& why) {
  state()->faults += why + "\n";
  return caller().last = error;
}

cudaError_t forbidden(const char* what) {
  const bool capturing = caller().capture != 0;
  return refuse(capturing ? cudaErrorStreamCaptureUnsupported : cudaErrorInvalidValue,
                std::string(what) + (capturing ? ": called during a capture" : ": called"));
}

cudaError_t not_relaxed(const char* what) {
  return refuse(cudaErrorStreamCaptureUnsupported, std::string(what) + ": not relaxed");
}

cudaError_t check_stream(cudaStream_t stream) {
  const Caller& c = caller();
  if (c.current != state()->device) return refuse(cudaErrorInvalidDevice, "device: another one");
  if (stream == c.stream) return cudaSuccess;
  return refuse(cudaErrorInvalidResourceHandle, "stream: another one");
}

}  // namespace simt

using namespace simt;

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, caller().mode);
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(caller().last, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure) return "unspecified launch failure";
  return error == cudaErrorLaunchOutOfResources ? "too many resources requested" : "refused";
}

extern "C" void eft_runtime_begin(int device, uint64_t stream, int capturing) {
  const LockedState s = state();
  s->device = caller().current = device;
  eft_runtime_drop(kDefaultGraph);
  eft_runtime_stream(stream, capturing ? kDefaultGraph : 0);
  s->counts = {};
}

extern "C" void eft_runtime_stream(uint64_t stream, int graph) {
  caller().stream = reinterpret_cast<cudaStream_t>(stream);
  caller().capture = graph;
}

extern "C" int eft_runtime_enter(int device) { return std::exchange(caller().current, device); }

extern "C" void eft_runtime_fail_launch(int number) { state()->fail_after = number; }
extern "C" void eft_runtime_fail_load(int number) { state()->fail_load_after = number; }
extern "C" eft_runtime_counts eft_runtime_count(void) { return state()->counts; }

extern "C" const char* eft_runtime_faults(void) {
  const LockedState s = state();
  Caller& c = caller();
  if (c.last != cudaSuccess) s->faults += "last error: left for the next caller of the runtime\n";
  if (!c.own_streams.empty()) s->faults += "streams: not destroyed\n";
  if (c.mode != cudaStreamCaptureModeGlobal) s->faults += "capture mode: not as it was\n";
  c.last = cudaSuccess;
  c.mode = cudaStreamCaptureModeGlobal;
  c.reported = std::exchange(s->faults, "");
  return c.reported.c_str();
}
