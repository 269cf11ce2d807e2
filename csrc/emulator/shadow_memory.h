// Shadow memory of the race detector: the last accesses to every watched byte.
#ifndef EFT_EMULATOR_SHADOW_MEMORY_H_
#define EFT_EMULATOR_SHADOW_MEMORY_H_

#include <stddef.h>

namespace simt {

struct Thread;

extern bool instrumented;  // this program has kernels compiled with -fsanitize=thread

// Records a read or write of the running thread. Ends the launch if it races with an earlier
// access. `pc` is the place in the kernel: a return address, or an atomic's Site.
void access(const void* address, size_t bytes, bool write, bool atomic, const void* pc);

// Starts a launch: nothing in the watched ranges has been accessed.
void clear_shadow_memory();

bool in_shared_memory(const void* at);

}  // namespace simt
#endif  // EFT_EMULATOR_SHADOW_MEMORY_H_
