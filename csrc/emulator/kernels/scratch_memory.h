// Scratch memory of a kernel on the emulator: exactly as large as asked for, filled with random
// bytes, watched for races.
#ifndef EFT_EMULATOR_KERNELS_SCRATCH_MEMORY_H_
#define EFT_EMULATOR_KERNELS_SCRATCH_MEMORY_H_

#include <stdlib.h>

#include <random>
#include <vector>

#include "emulator/race_detector.h"

class ScratchMemory {
 public:
  explicit ScratchMemory(uint64_t seed) : random_(seed) {}
  ~ScratchMemory() {
    simt::unwatch();
    for (void* memory : owned_) free(memory);
  }
  ScratchMemory(const ScratchMemory&) = delete;
  ScratchMemory& operator=(const ScratchMemory&) = delete;

  template <class T>
  T* make(int64_t count, const char* name, bool watched) {
    const size_t bytes = size_t(count) * sizeof(T);
    void* memory = nullptr;
    if (posix_memalign(&memory, 16, bytes ? bytes : 1) != 0) abort();
    owned_.push_back(memory);
    for (size_t i = 0; i < bytes; ++i) static_cast<char*>(memory)[i] = char(random_() >> 56);
    if (watched && bytes) simt::watch(memory, bytes, name);
    return static_cast<T*>(memory);
  }

 private:
  std::mt19937_64 random_;
  std::vector<void*> owned_;
};

#endif  // EFT_EMULATOR_KERNELS_SCRATCH_MEMORY_H_
