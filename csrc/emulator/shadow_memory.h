// What the race detector remembers of every watched byte.
#ifndef EFT_EMULATOR_SHADOW_MEMORY_H_
#define EFT_EMULATOR_SHADOW_MEMORY_H_

#include <stddef.h>

namespace cuda_host {

struct Thread;

extern bool instrumented;  // kernels of this program are compiled for the detector

// The thread that runs reads or writes; ends the launch where that races with what came before.
// `pc` says where in the kernel: a return address, of an atomic its Site.
void access(const void* address, size_t bytes, bool write, bool atomic, const void* pc);

// A launch begins: nothing has been accessed, of what is watched.
void forget_accesses();

bool in_shared_memory(const void* at);

}  // namespace cuda_host
#endif  // EFT_EMULATOR_SHADOW_MEMORY_H_
