// CUDA's device language for a C++ compiler. Kernels that use only this, and the functions of
// csrc/cuda/common/device.cuh, compile unchanged and run on simt_emulator.h. Left out on purpose:
// static
// __shared__ variables, since blocks take turns on one host thread; use dynamic shared memory.
#ifndef EFT_EMULATOR_CUDA_DEVICE_H_
#define EFT_EMULATOR_CUDA_DEVICE_H_

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <type_traits>

#include "emulator/simt_emulator.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))

using dim3 = simt::Dim3;
extern simt::Dim3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

// The place of the call, for messages: the last parameters of each primitive.
#define EFT_HOST_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

#include "emulator/cuda_math.h"
#include "emulator/cuda_vectors.h"
#include "emulator/cuda_warp.h"

// ---- barriers and fences ----
inline void __syncthreads(EFT_HOST_SITE) {
  simt::block_barrier({"__syncthreads", file, line}, false);
}
inline int __syncthreads_or(int vote, EFT_HOST_SITE) {
  return simt::block_barrier({"__syncthreads_or", file, line}, vote).count > 0;
}
inline int __syncthreads_and(int vote, EFT_HOST_SITE) {
  const simt::Votes votes = simt::block_barrier({"__syncthreads_and", file, line}, vote);
  return votes.count == votes.voters;
}
inline int __syncthreads_count(int vote, EFT_HOST_SITE) {
  return simt::block_barrier({"__syncthreads_count", file, line}, vote).count;
}
inline void __threadfence() { simt::fence(true); }
inline void __threadfence_system() { simt::fence(true); }
inline void __threadfence_block() { simt::fence(false); }

// ---- atomics of 32 and 64 bits; they return the value found ----
namespace simt {
template <class T>
T atomic_of(const Site& site, T* at, Op op, T value, T compare = T{}) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t bits = 0, expected = 0;
  memcpy(&bits, &value, sizeof(T));
  memcpy(&expected, &compare, sizeof(T));
  const uint64_t found = atomic(site, at, sizeof(T), op, bits, expected);
  T result;
  memcpy(&result, &found, sizeof(T));
  return result;
}
template <class T>
using Same = std::common_type_t<T>;  // lets the address alone decide the type
}  // namespace simt

#define EFT_HOST_ATOMIC(name, op)                                           \
  template <class T>                                                        \
  T name(T* at, simt::Same<T> value, EFT_HOST_SITE) {                       \
    return simt::atomic_of<T>({#name, file, line}, at, op, value);          \
  }                                                                         \
  template <class T>                                                        \
  T name##_block(T* at, simt::Same<T> value, EFT_HOST_SITE) {               \
    return simt::atomic_of<T>({#name "_block", file, line}, at, op, value); \
  }
EFT_HOST_ATOMIC(atomicAdd, (std::is_floating_point_v<T> ? simt::Op::kAddFloat : simt::Op::kAdd))
EFT_HOST_ATOMIC(atomicMax, (std::is_signed_v<T> ? simt::Op::kMaxSigned : simt::Op::kMax))
EFT_HOST_ATOMIC(atomicMin, (std::is_signed_v<T> ? simt::Op::kMinSigned : simt::Op::kMin))
EFT_HOST_ATOMIC(atomicAnd, simt::Op::kAnd)
EFT_HOST_ATOMIC(atomicOr, simt::Op::kOr)
EFT_HOST_ATOMIC(atomicXor, simt::Op::kXor)
EFT_HOST_ATOMIC(atomicExch, simt::Op::kExch)
#undef EFT_HOST_ATOMIC
template <class T>
T atomicSub(T* at, simt::Same<T> value, EFT_HOST_SITE) {
  return simt::atomic_of<T>({"atomicSub", file, line}, at, simt::Op::kAdd, T(0) - value);
}
template <class T>
T atomicCAS(T* at, simt::Same<T> compare, simt::Same<T> value, EFT_HOST_SITE) {
  return simt::atomic_of<T>({"atomicCAS", file, line}, at, simt::Op::kCas, value, compare);
}

// ---- clusters: cooperative groups and inline PTX on a device ----
namespace simt {
inline void cluster_arrive_here(EFT_HOST_SITE) { cluster_arrive({"cluster arrive", file, line}); }
inline void cluster_wait_here(EFT_HOST_SITE) { cluster_wait({"cluster wait", file, line}); }
inline void cluster_sync(EFT_HOST_SITE) {
  cluster_arrive({"cluster barrier", file, line});
  cluster_wait({"cluster barrier", file, line});
}
template <class T>
T* map_shared(T* at, unsigned rank, EFT_HOST_SITE) {
  return static_cast<T*>(map_shared(Site{"map_shared", file, line}, at, rank));
}
template <class T>
T* shared() {
  return static_cast<T*>(shared_memory());
}

// Launches a kernel, as <<<...>>> does.
template <class... Parameters>
void launch(const Launch& how, void (*kernel)(Parameters...), Same<Parameters>... arguments) {
  run(how, [&] { kernel(arguments...); });
}
}  // namespace simt

#ifdef EFT_HOST_DEVICE
#include "emulator/device_functions.h"
#endif

#endif  // EFT_EMULATOR_CUDA_DEVICE_H_
