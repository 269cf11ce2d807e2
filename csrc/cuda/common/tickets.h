// Tickets of launches that are captured.
#ifndef EFT_CUDA_COMMON_TICKETS_H_
#define EFT_CUDA_COMMON_TICKETS_H_

#include <cuda_runtime.h>
#include <stdint.h>

namespace eft {

// A workspace of a graph may be somebody else's memory between two replays, and tickets have to be
// zero when a launch begins. So the graph that `stream` is being captured into gets a page of
// EFT_CUDA_TICKET_BYTES that nobody else writes, zeroed before; it is free again when the graph and
// all that was made from it are gone. Leaves `tickets` as they are where nothing is captured.
cudaError_t tickets_of_capture(cudaStream_t stream, uint32_t*& tickets);

}  // namespace eft
#endif  // EFT_CUDA_COMMON_TICKETS_H_
