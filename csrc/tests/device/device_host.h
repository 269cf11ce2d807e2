// csrc/cuda/device.h's functions on the host's machine.
#ifndef EFT_TESTS_DEVICE_DEVICE_HOST_H_
#define EFT_TESTS_DEVICE_DEVICE_HOST_H_

#include "cuda/device.h"

namespace eft {
namespace {

inline Bits128 load_once(const void* p) { return *static_cast<const Bits128*>(p); }
inline Bits128 load_cached(const void* p) { return *static_cast<const Bits128*>(p); }
template <class T>
T load_written(const T* p) {
  return *p;
}

inline char* dynamic_shared() { return static_cast<char*>(cuda_host::shared_memory()); }

// The sum rounded to nearest is exact but for an error that TwoSum gives exactly.
inline float add_down(float a, float b) {
  const float sum = a + b;
  if (!(fabsf(sum) < INFINITY)) {
    const bool overflow = sum > 0 && a < INFINITY && b < INFINITY;
    return overflow ? 0x1.fffffep127f : sum;
  }
  if (sum == 0.0f && a != 0.0f) return -0.0f;
  const float part = sum - a;
  const float error = (a - (sum - part)) + (b - part);
  return error < 0 ? nextafterf(sum, -INFINITY) : sum;
}

// bf16 magnitudes, NaN canonical.
inline uint32_t max_magnitudes(uint32_t a, uint32_t b) {
  uint32_t out = 0;
  for (int shift = 0; shift <= 16; shift += 16) {
    const uint32_t x = a >> shift & 0x7fffu, y = b >> shift & 0x7fffu;
    const uint32_t larger = x > 0x7f80u || y > 0x7f80u ? 0x7fffu : x < y ? y : x;
    out |= larger << shift;
  }
  return out;
}

inline uint32_t cluster_rank() { return cuda_host::cluster_rank(); }
inline uint32_t cluster_size() { return cuda_host::cluster_size(); }
inline void cluster_sync(EFT_HOST_SITE) { cuda_host::cluster_sync(file, line); }
template <class T>
T* map_shared(T* place, uint32_t rank, EFT_HOST_SITE) {
  return cuda_host::map_shared(place, rank, file, line);
}

}  // namespace
}  // namespace eft
#endif  // EFT_TESTS_DEVICE_DEVICE_HOST_H_
