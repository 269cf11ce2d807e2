// The emulator on small kernels: correct ones compute the same in every order of threads, and one
// that would hang is found and named.
#include <string>
#include <vector>

#include "emulator/race_detector.h"
#include "emulator/tests/small_launch.h"
#include "tests/check.h"

namespace {

// Sums of each block's numbers; without `barriers`, nothing orders writing and reading.
__global__ void block_sum(const uint32_t* x, uint32_t* sums, bool barriers) {
  uint32_t* partial = simt::shared<uint32_t>();
  const unsigned t = threadIdx.x, warps = blockDim.x / 32;
  const uint32_t sum = __reduce_add_sync(kFull, x[blockIdx.x * blockDim.x + t]);
  if (t % 32 == 0) partial[t / 32] = sum;
  if (barriers) __syncthreads();
  if (t) return;
  uint32_t all = 0;
  for (unsigned w = 0; w < warps; ++w) all += partial[w];
  sums[blockIdx.x] = all;
}

void sums_are_right_in_every_order() {
  std::vector<uint32_t> x(8 * 256), sums(8);
  for (size_t i = 0; i < x.size(); ++i) x[i] = uint32_t(i * 2654435761u);
  int wrong = 0;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    CHECK(error_of(launch_of(8, 256, 32, seed), block_sum, x.data(), sums.data(), true) == "");
    for (size_t b = 0; b < 8; ++b) {
      uint32_t want = 0;
      for (size_t i = 0; i < 256; ++i) want += x[256 * b + i];
      CHECK(sums[b] == want);
    }
    // Planted: without the barrier there is a race, and without the detector the sums are wrong.
    const std::string error =
        error_of(launch_of(8, 256, 32, seed), block_sum, x.data(), sums.data(), false);
    if (simt::detects_races()) {
      CHECK(contains(error, "race: byte") && contains(error, "shared memory of block"));
      CHECK(contains(error, "test_simt_emulator.cpp") || contains(error, "0x"));
      continue;
    }
    CHECK(error == "");
    for (size_t b = 0; b < 8; ++b) {
      uint32_t want = 0;
      for (size_t i = 0; i < 256; ++i) want += x[256 * b + i];
      wrong += sums[b] != want;
    }
  }
  CHECK(simt::detects_races() || wrong > 100);
}

// ---- planted faults ----

__global__ void one_thread_misses_the_barrier() {
  if (threadIdx.x != 17) __syncthreads();
}
__global__ void two_barriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void diverged_shuffle(uint32_t* out) {
  const unsigned l = threadIdx.x;
  if (l < 8) {
    out[l] = __shfl_sync(kFull, l, 0);
  } else {
    out[l] = __shfl_sync(kFull, l, 1);
  }
}
__global__ void lane_that_ended(uint32_t* out) {
  if (threadIdx.x == 3) return;
  out[threadIdx.x] = __reduce_add_sync(kFull, 1u);
}
__global__ void lane_outside_its_mask(uint32_t* out) { out[threadIdx.x] = __ballot_sync(0xffu, 1); }
__global__ void reads_outside_the_mask(uint32_t* out) {
  if (threadIdx.x < 8) out[threadIdx.x] = __shfl_sync(0xffu, threadIdx.x, 9);
}
__global__ void waits_for_ever(uint32_t* flag) {
  while (atomicAdd(flag, 0) == 0) continue;
}

void what_would_hang_is_named() {
  std::vector<uint32_t> out(64);
  for (uint64_t seed = 0; seed < 8; ++seed) {
    std::string error = error_of(launch_of(1, 64, 0, seed), one_thread_misses_the_barrier);
    CHECK(contains(error, "deadlock: 63 threads") &&
          contains(error, "__syncthreads (test_simt_emulator.cpp:"));
    CHECK(contains(error, "1 have ended"));
    error = error_of(launch_of(1, 64, 0, seed), two_barriers);
    CHECK(contains(error, "__syncthreads (test_simt_emulator.cpp:") &&
          contains(error, "of this block is at"));
    error = error_of(launch_of(1, 32, 0, seed), diverged_shuffle, out.data());
    CHECK(contains(error, "__shfl_sync (test_simt_emulator.cpp:") && contains(error, "diverged"));
    error = error_of(launch_of(1, 32, 0, seed), lane_that_ended, out.data());
    CHECK(contains(error, "lane 3 of the mask has ended"));
    error = error_of(launch_of(1, 32, 0, seed), lane_outside_its_mask, out.data());
    CHECK(contains(error, "the calling lane is not in the mask"));
    error = error_of(launch_of(1, 32, 0, seed), reads_outside_the_mask, out.data());
    CHECK(contains(error, "reads lane 9, which is not in the mask"));
  }
  uint32_t flag = 0;
  CHECK(contains(error_of(launch_of(1, 32, 0, 0), waits_for_ever, &flag), "endless"));
}

__global__ void lane_that_does_not_exist(uint32_t* out) {
  out[threadIdx.x] = __ballot_sync(kFull, 1);
}
__global__ void unaligned_atomic(uint32_t* out) {
  atomicAdd(reinterpret_cast<uint32_t*>(reinterpret_cast<char*>(out) + 1), 1u);
}
__global__ void arrives_twice() {
  simt::cluster_arrive_here();
  simt::cluster_arrive_here();
}
__global__ void waits_without_arriving() { simt::cluster_wait_here(); }
__global__ void maps_outside_the_cluster() { simt::map_shared(simt::shared<uint32_t>(), 2); }
__global__ void maps_global_memory(uint32_t* out) { simt::map_shared(out, 0); }

void wrong_calls_are_named() {
  std::vector<uint32_t> out(64);
  for (uint64_t seed = 0; seed < 8; ++seed) {
    std::string error = error_of(launch_of(1, 16, 0, seed), lane_that_does_not_exist, out.data());
    CHECK(contains(error, "lane 16 of the mask does not exist"));
    error = error_of(launch_of(1, 32, 0, seed), unaligned_atomic, out.data());
    CHECK(contains(error, "atomicAdd (test_simt_emulator.cpp:"));
    CHECK(contains(error, "the address is not aligned"));
    const Launch cluster = launch_of(2, 32, 128, seed, 2);
    CHECK(contains(error_of(cluster, arrives_twice), "arrives twice without a wait"));
    CHECK(contains(error_of(cluster, waits_without_arriving), "waits without having arrived"));
    error = error_of(cluster, maps_outside_the_cluster);
    CHECK(contains(error, "rank 2 is not in the cluster"));
    error = error_of(cluster, maps_global_memory, out.data());
    CHECK(contains(error, "not an address of this block's shared memory"));
  }
  CHECK(contains(error_of(launch_of(1, 1025, 0, 0), arrives_twice), "1 to 1024 threads"));
  CHECK(contains(error_of(launch_of(3, 32, 0, 0, 2), arrives_twice), "that divides the grid"));
  CHECK(contains(error_of(launch_of(1, 32, 228 * 1024, 0), arrives_twice), "at most 227 KiB"));
}

}  // namespace

int main() {
  sums_are_right_in_every_order();
  what_would_hang_is_named();
  wrong_calls_are_named();
  printf("simt_emulator%s: %d failures\n", simt::detects_races() ? " with races" : "", failures);
  return failures != 0;
}
