// The compiler's calls under -fsanitize=thread.
#include <stdint.h>
#include <string.h>

#include "emulator/shadow_memory.h"

#define EFT_HOOK_OF(type) extern "C" __attribute__((visibility("default"))) type
#define EFT_HOOK EFT_HOOK_OF(void)
#define EFT_ACCESS(suffix, bytes)                                       \
  EFT_HOOK __tsan_read##suffix(const void* at) {                        \
    simt::access(at, bytes, false, false, __builtin_return_address(0)); \
  }                                                                     \
  EFT_HOOK __tsan_write##suffix(const void* at) {                       \
    simt::access(at, bytes, true, false, __builtin_return_address(0));  \
  }                                                                     \
  EFT_HOOK __tsan_volatile_read##suffix(const void* at) {               \
    simt::access(at, bytes, false, false, __builtin_return_address(0)); \
  }                                                                     \
  EFT_HOOK __tsan_volatile_write##suffix(const void* at) {              \
    simt::access(at, bytes, true, false, __builtin_return_address(0));  \
  }                                                                     \
  EFT_HOOK __tsan_unaligned_read##suffix(const void* at) {              \
    simt::access(at, bytes, false, false, __builtin_return_address(0)); \
  }                                                                     \
  EFT_HOOK __tsan_unaligned_write##suffix(const void* at) {             \
    simt::access(at, bytes, true, false, __builtin_return_address(0));  \
  }
EFT_ACCESS(1, 1)
EFT_ACCESS(2, 2)
EFT_ACCESS(4, 4)
EFT_ACCESS(8, 8)
EFT_ACCESS(16, 16)
EFT_HOOK __tsan_read_range(const void* at, size_t bytes) {
  simt::access(at, bytes, false, false, __builtin_return_address(0));
}
EFT_HOOK __tsan_write_range(const void* at, size_t bytes) {
  simt::access(at, bytes, true, false, __builtin_return_address(0));
}
extern "C" __attribute__((visibility("default"))) void* __tsan_memcpy(void* to, const void* from,
                                                                      size_t bytes) {
  simt::access(from, bytes, false, false, __builtin_return_address(0));
  simt::access(to, bytes, true, false, __builtin_return_address(0));
  return memcpy(to, from, bytes);
}
extern "C" __attribute__((visibility("default"))) void* __tsan_memset(void* to, int byte,
                                                                      size_t bytes) {
  simt::access(to, bytes, true, false, __builtin_return_address(0));
  return memset(to, byte, bytes);
}
EFT_HOOK __tsan_init() { simt::instrumented = true; }
EFT_HOOK __tsan_func_entry(void*) {}
EFT_HOOK __tsan_func_exit() {}
EFT_HOOK __tsan_vptr_update(void**, void*) {}
EFT_HOOK __tsan_vptr_read(void**) {}

// Atomics of the launch code, which runs on the host. A kernel's are calls of cuda_device.h.
EFT_HOOK_OF(uint8_t) __tsan_atomic8_load(const volatile uint8_t* at, int) {
  return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}
EFT_HOOK __tsan_atomic8_store(volatile uint8_t* at, uint8_t value, int) {
  __atomic_store_n(at, value, __ATOMIC_SEQ_CST);
}
