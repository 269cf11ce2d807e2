// Error codes and their messages, kept per thread; and what every backend checks of a call.
#ifndef EFT_COMMON_ERROR_H_
#define EFT_COMMON_ERROR_H_

#include "eft.h"

namespace eft {

// Stores the message (printf-style) for eft_last_error and returns `code`.
__attribute__((format(printf, 2, 3))) int fail(int code, const char* format, ...);

// Check a call before a byte of it is read. Return EFT_OK, or a failure that names the field.
int check_step(const eft_step* step);
int check_verify(const eft_verify* verify);

}  // namespace eft
#endif  // EFT_COMMON_ERROR_H_
