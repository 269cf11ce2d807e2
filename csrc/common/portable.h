// EFT_HD marks functions that compile for the host and for CUDA devices; and two that both need.
#ifndef EFT_COMMON_PORTABLE_H_
#define EFT_COMMON_PORTABLE_H_

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define EFT_HD __host__ __device__ __forceinline__
#else
#define EFT_HD inline __attribute__((always_inline))
#endif

namespace eft {

// Internal linkage on purpose: these headers are compiled once per instruction set, and a shared
// inline copy built with AVX-512 must never be the one a plain x86-64 machine runs.
namespace {

template <class To, class From>
EFT_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast between different sizes");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// High 64 bits of a 64 x 64-bit product.
EFT_HD uint64_t mul_high(uint64_t a, uint64_t b) {
#ifdef __CUDA_ARCH__
  return __umul64hi(a, b);
#else
  return uint64_t((unsigned __int128)(a)*b >> 64);
#endif
}

}  // namespace
}  // namespace eft
#endif  // EFT_COMMON_PORTABLE_H_
