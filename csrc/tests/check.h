// CHECK for the C++ tests: prints a condition that is false, with its line, and counts it.
#ifndef EFT_TESTS_CHECK_H_
#define EFT_TESTS_CHECK_H_

#include <stdio.h>

inline int failures = 0;

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                             \
    }                                                                         \
  } while (0)

#endif  // EFT_TESTS_CHECK_H_
