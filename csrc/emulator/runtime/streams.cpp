// Streams and events.
#include "emulator/runtime/state.h"

struct CUevent_st {
  bool recorded = false;  // and not queried since
};

using namespace simt;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (!relaxed()) return not_relaxed("cudaStreamCreateWithFlags");
  if (flags != cudaStreamNonBlocking) {
    return refuse(cudaErrorInvalidValue, "cudaStreamCreateWithFlags: would wait for other streams");
  }
  *stream = reinterpret_cast<cudaStream_t>(new char);
  caller().own_streams.insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (!caller().own_streams.erase(stream)) return forbidden("cudaStreamDestroy");
  delete reinterpret_cast<char*>(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (!relaxed() || !caller().own_streams.count(stream)) return forbidden("cudaStreamSynchronize");
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() { return forbidden("cudaDeviceSynchronize"); }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (flags != cudaEventDisableTiming) {
    return refuse(cudaErrorInvalidValue, "cudaEventCreateWithFlags: would take the time");
  }
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (caller().capture) return forbidden("cudaEventRecord");
  if (const cudaError_t error = check_stream(stream)) return error;
  event->recorded = true;
  return cudaSuccess;
}

// The first query after a record finds the event not ready. As in CUDA, cudaGetLastError does not
// return that.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (!relaxed()) return not_relaxed("cudaEventQuery");
  return std::exchange(event->recorded, false) ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (!relaxed()) return not_relaxed("cudaEventSynchronize");
  event->recorded = false;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
