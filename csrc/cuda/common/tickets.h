// The tickets of captured launches.
#ifndef EFT_CUDA_COMMON_TICKETS_H_
#define EFT_CUDA_COMMON_TICKETS_H_

#include <cuda_runtime.h>
#include <stdint.h>

namespace eft {

// Tickets have to be zero when a launch begins, but between two replays a graph's workspace may be
// somebody else's memory. So the graph that `stream` is captured into gets a zeroed set of
// EFT_CUDA_TICKET_BYTES to itself; it is free again when the graph and all that was made from it
// are gone. Leaves `tickets` as they are where nothing is captured.
cudaError_t tickets_of_capture(cudaStream_t stream, uint32_t*& tickets);

}  // namespace eft
#endif  // EFT_CUDA_COMMON_TICKETS_H_
