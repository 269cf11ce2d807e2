// EFT_ASAN: 1 if this is compiled with AddressSanitizer, else 0 with its calls as stubs.
#ifndef EFT_EMULATOR_ASAN_H_
#define EFT_EMULATOR_ASAN_H_

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EFT_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define EFT_ASAN 1
#endif

#ifdef EFT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define EFT_ASAN 0
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

#endif  // EFT_EMULATOR_ASAN_H_
