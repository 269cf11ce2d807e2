// The functions of csrc/cuda/common/device.cuh on the emulator. tests/test_parity.cpp checks that
// they round as the instructions do.
#ifndef EFT_EMULATOR_DEVICE_FUNCTIONS_H_
#define EFT_EMULATOR_DEVICE_FUNCTIONS_H_

#include "common/dtype.h"
#include "cuda/common/device.cuh"

namespace eft {
namespace {

struct OneRoundTrip {
  OneRoundTrip() { simt::begin_one_round_trip(); }
  ~OneRoundTrip() { simt::end_one_round_trip(); }
  OneRoundTrip(const OneRoundTrip&) = delete;
  OneRoundTrip& operator=(const OneRoundTrip&) = delete;
};

inline Bits128 load_once(const void* p) {
  simt::count_load();
  simt::loaded_bytes += sizeof(Bits128);
  return *static_cast<const Bits128*>(p);
}
inline Bits128 load_cached(const void* p) { return load_once(p); }
template <class T>
T load_written(const T* p) {
  simt::count_load();
  return *p;
}

inline uint32_t take_ticket(uint32_t* counter, EFT_HOST_SITE) {
  simt::fence(true);
  const uint32_t found = atomicAdd(counter, 1u, file, line);
  simt::fence(true);
  return found;
}

inline char* dynamic_shared() { return static_cast<char*>(simt::shared_memory()); }

// a + b rounded down. TwoSum gives the exact error of the sum rounded to nearest.
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

// a + b as bf16, rounded once. The last bit of an inexact sum is made odd, so that the second
// rounding does not take it for a tie.
inline uint32_t rounded_bf16(double a, double b) {
  double sum = a + b;
  if (!(sum == sum)) return 0x7fffu;
  if (fabs(sum) < INFINITY) {
    const double part = sum - a, error = (a - (sum - part)) + (b - part);
    const bool odd = bit_cast<uint64_t>(sum) & 1;
    if (error != 0 && !odd) sum = nextafter(sum, error > 0 ? INFINITY : -INFINITY);
    int exponent;
    frexp(sum, &exponent);
    const double unit = ldexp(1.0, exponent - 8 > -133 ? exponent - 8 : -133);
    sum = rint(sum / unit) * unit;  // at most 2^128, which is infinity in fp32
  }
  return bit_cast<uint32_t>(float(sum)) >> 16;
}

// fma.rn.bf16x2 of x, x and sum. A product of two bf16 is exact in double.
inline uint32_t add_squares(uint32_t sum, uint32_t x) {
  uint32_t out = 0;
  for (int shift = 0; shift <= 16; shift += 16) {
    const double value = to_float(Bf16{uint16_t(x >> shift)});
    const double start = to_float(Bf16{uint16_t(sum >> shift)});
    out |= rounded_bf16(value * value, start) << shift;
  }
  return out;
}

inline float half_to_float(uint16_t bits) { return to_float(Fp16{bits}); }

inline uint32_t thread_index() { return threadIdx.x; }
template <class T>
T* opaque_ptr(T* p) {
  return p;
}

inline uint32_t cluster_rank() { return simt::cluster_rank(); }
inline uint32_t cluster_size() { return simt::cluster_size(); }
inline void cluster_arrive_unordered(EFT_HOST_SITE) { simt::cluster_arrive_here(file, line); }
inline void cluster_wait(EFT_HOST_SITE) { simt::cluster_wait_here(file, line); }
inline void cluster_sync(EFT_HOST_SITE) { simt::cluster_sync(file, line); }
template <class T>
T* map_shared(T* place, uint32_t rank, EFT_HOST_SITE) {
  return simt::map_shared(place, rank, file, line);
}

}  // namespace
}  // namespace eft
#endif  // EFT_EMULATOR_DEVICE_FUNCTIONS_H_
