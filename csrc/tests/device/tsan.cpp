// The compiler's calls under -fsanitize=thread.
#include <string.h>

#include "tests/device/accesses.h"

#define EFT_HOOK extern "C" __attribute__((visibility("default"))) void
#define EFT_ACCESS(suffix, bytes)                                            \
  EFT_HOOK __tsan_read##suffix(const void* at) {                             \
    cuda_host::access(at, bytes, false, false, __builtin_return_address(0)); \
  }                                                                          \
  EFT_HOOK __tsan_write##suffix(const void* at) {                            \
    cuda_host::access(at, bytes, true, false, __builtin_return_address(0));  \
  }                                                                          \
  EFT_HOOK __tsan_volatile_read##suffix(const void* at) {                    \
    cuda_host::access(at, bytes, false, false, __builtin_return_address(0)); \
  }                                                                          \
  EFT_HOOK __tsan_volatile_write##suffix(const void* at) {                   \
    cuda_host::access(at, bytes, true, false, __builtin_return_address(0));  \
  }                                                                          \
  EFT_HOOK __tsan_unaligned_read##suffix(const void* at) {                   \
    cuda_host::access(at, bytes, false, false, __builtin_return_address(0)); \
  }                                                                          \
  EFT_HOOK __tsan_unaligned_write##suffix(const void* at) {                  \
    cuda_host::access(at, bytes, true, false, __builtin_return_address(0));  \
  }
EFT_ACCESS(1, 1)
EFT_ACCESS(2, 2)
EFT_ACCESS(4, 4)
EFT_ACCESS(8, 8)
EFT_ACCESS(16, 16)
EFT_HOOK __tsan_read_range(const void* at, size_t bytes) {
  cuda_host::access(at, bytes, false, false, __builtin_return_address(0));
}
EFT_HOOK __tsan_write_range(const void* at, size_t bytes) {
  cuda_host::access(at, bytes, true, false, __builtin_return_address(0));
}
extern "C" __attribute__((visibility("default"))) void* __tsan_memcpy(void* to, const void* from,
                                                                      size_t bytes) {
  cuda_host::access(from, bytes, false, false, __builtin_return_address(0));
  cuda_host::access(to, bytes, true, false, __builtin_return_address(0));
  return memcpy(to, from, bytes);
}
extern "C" __attribute__((visibility("default"))) void* __tsan_memset(void* to, int byte,
                                                                      size_t bytes) {
  cuda_host::access(to, bytes, true, false, __builtin_return_address(0));
  return memset(to, byte, bytes);
}
EFT_HOOK __tsan_init() { cuda_host::instrumented = true; }
EFT_HOOK __tsan_func_entry(void*) {}
EFT_HOOK __tsan_func_exit() {}
EFT_HOOK __tsan_vptr_update(void**, void*) {}
EFT_HOOK __tsan_vptr_read(void**) {}
