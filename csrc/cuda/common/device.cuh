// The instructions that plain CUDA C++ has no function for, in one place. With EFT_HOST_DEVICE the
// same names come from csrc/emulator, which runs the kernels' own source on a CPU.
#ifndef EFT_CUDA_COMMON_DEVICE_CUH_
#define EFT_CUDA_COMMON_DEVICE_CUH_

#include "common/portable.h"

namespace eft {
namespace {

// 16 bytes as they lie in memory.
struct alignas(16) Bits128 {
  uint32_t x[4];
};

}  // namespace
}  // namespace eft

#ifdef EFT_HOST_DEVICE
#include "emulator/cuda_device.h"
#else

namespace eft {
namespace {

// 16 aligned bytes of read-only memory that nobody reads twice: past the L1.
__device__ __forceinline__ Bits128 load_once(const void* p) {
  Bits128 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x[0]), "=r"(v.x[1]), "=r"(v.x[2]), "=r"(v.x[3])
               : "l"(p));
  return v;
}

// 16 aligned bytes of read-only memory whose neighbours other lanes ask for: through the L1.
__device__ __forceinline__ Bits128 load_cached(const void* p) {
  Bits128 v;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x[0]), "=r"(v.x[1]), "=r"(v.x[2]), "=r"(v.x[3])
               : "l"(p));
  return v;
}

// Reads what another block wrote during this launch, from the L2, which all blocks share.
template <class T>
__device__ __forceinline__ T load_written(const T* p) {
  return __ldcg(p);
}

__device__ __forceinline__ Bits128 load_written(const Bits128* p) {
  const uint4 v = __ldcg(reinterpret_cast<const uint4*>(p));
  return {{v.x, v.y, v.z, v.w}};
}

// Adds 1 and returns what was there. Whoever adds later sees all that this thread's block wrote
// before its last barrier.
__device__ __forceinline__ uint32_t take_ticket(uint32_t* counter) {
  uint32_t found;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(found)
               : "l"(counter)
               : "memory");
  return found;
}

// The loads made while it lives do not wait for one another, which the emulator counts as one round
// trip to memory.
struct OneRoundTrip {
  __device__ __forceinline__ OneRoundTrip() {}
};

// The block's dynamic shared memory, aligned to 16 bytes.
__device__ __forceinline__ char* dynamic_shared() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

// a + b rounded towards minus infinity.
__device__ __forceinline__ float add_down(float a, float b) { return __fadd_rd(a, b); }

// sum + x * x for two pairs of bf16, each rounded once: an infinity or NaN stays, and no square
// ever lowers the sum, so a small sum says that all magnitudes are small.
__device__ __forceinline__ uint32_t add_squares(uint32_t sum, uint32_t x) {
  uint32_t out;
  asm("fma.rn.bf16x2 %0, %1, %1, %2;" : "=r"(out) : "r"(x), "r"(sum));
  return out;
}

// fp16 to fp32, exactly.
__device__ __forceinline__ float half_to_float(uint16_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}

// The same pointer into the block's shared memory, of which the compiler knows nothing: addresses
// computed from it stay inside the loop that asks, not in registers around it.
template <class T>
__device__ __forceinline__ T* opaque_ptr(T* p) {
  uint32_t offset = uint32_t(__cvta_generic_to_shared(p));
  asm volatile("" : "+r"(offset));
  return static_cast<T*>(__cvta_shared_to_generic(offset));
}

// threadIdx.x, read again each time, for the same reason.
__device__ __forceinline__ uint32_t thread_index() {
  uint32_t index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

// Clusters: the blocks that share a row. Only kernels launched with the cluster attribute call
// these, and only sm_90 and later have them.
__device__ __forceinline__ uint32_t cluster_rank() {
#if __CUDA_ARCH__ >= 900
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return 0;
#endif
}

__device__ __forceinline__ uint32_t cluster_size() {
#if __CUDA_ARCH__ >= 900
  uint32_t size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
#else
  return 1;
#endif
}

// Together, a barrier of the cluster that orders no memory, but shows that every block runs.
__device__ __forceinline__ void cluster_arrive_unordered() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");  // the compiler moves nothing past
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait;" ::: "memory");
#endif
}

// All threads of all blocks of the cluster; shared memory written before is seen after.
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;\n barrier.cluster.wait.acquire;" ::: "memory");
#else
  __syncthreads();
#endif
}

// The same address in the shared memory of another block of the cluster.
template <class T>
__device__ __forceinline__ T* map_shared(T* here, uint32_t rank) {
#if __CUDA_ARCH__ >= 900
  uint64_t there;
  asm volatile("mapa.u64 %0, %1, %2;"
               : "=l"(there)
               : "l"(reinterpret_cast<uint64_t>(here)), "r"(rank));
  return reinterpret_cast<T*>(there);
#else
  return here;
#endif
}

}  // namespace
}  // namespace eft
#endif  // EFT_HOST_DEVICE

#endif  // EFT_CUDA_COMMON_DEVICE_CUH_
