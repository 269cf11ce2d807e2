// The counts of barriers and round trips, on kernels whose numbers are known.
#include <vector>

#include "cuda/common/device.cuh"
#include "emulator/tests/small_launch.h"
#include "tests/check.h"

namespace {

using simt::Path;

bool is(const Path& path, uint64_t block_barriers, uint64_t cluster_barriers,
        uint64_t round_trips) {
  return path.block_barriers == block_barriers && path.cluster_barriers == cluster_barriers &&
         path.round_trips == round_trips;
}

template <class... P, class... A>
simt::Counts counts_of(const Launch& how, void (*kernel)(P...), A... arguments) {
  simt::counts = {};
  CHECK(error_of(how, kernel, arguments...) == "");
  return simt::counts;
}

// Follows a list: thread t makes t % 4 + 1 loads, each of which waits for the one before.
__global__ void follow(const uint32_t* next, uint32_t* out) {
  uint32_t at = threadIdx.x;
  for (uint32_t i = 0; i <= threadIdx.x % 4; ++i) at = eft::load_written(next + at);
  __syncthreads();
  out[threadIdx.x] = __ldg(next + at);
}

// 2 round trips: 8 loads together, of which 3 have a scope of their own, and one by itself.
__global__ void load_together(const uint32_t* x, uint32_t* out) {
  uint32_t sum = 0;
  {
    const eft::OneRoundTrip together;
    for (int i = 0; i < 5; ++i) sum += eft::load_written(x + i);
    const eft::OneRoundTrip nested;
    for (int i = 5; i < 8; ++i) sum += eft::load_written(x + i);
  }
  {
    const eft::OneRoundTrip nothing_to_load;
  }
  out[threadIdx.x] = sum + eft::load_cached(x).x[0];
}

// Each block reads 2 numbers, one after the other; the one with the last ticket reads them all.
__global__ void sum_of_last(const uint32_t* x, uint32_t* tickets, uint32_t* out) {
  uint32_t* shared = simt::shared<uint32_t>();
  const uint32_t own = eft::load_written(x + eft::load_written(x));
  if (threadIdx.x == 0) shared[0] = 0;
  __syncthreads();
  atomicAdd(shared, own);
  __syncthreads();
  if (threadIdx.x == 0) shared[1] = atomicAdd(tickets, 1u);
  __syncthreads();
  if (shared[1] != gridDim.x - 1) return;
  uint32_t sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += eft::load_written(x + i);
  if (threadIdx.x == 0) *tickets = 0;
  __syncthreads();
  out[threadIdx.x] = sum;
}

// Block 1 of each cluster has a barrier of its own.
__global__ void meet(const uint32_t* x) {
  const uint32_t first = eft::load_written(x);
  simt::cluster_sync();
  const uint32_t second = eft::load_written(x + first);
  if (simt::cluster_rank() == 1) __syncthreads();
  atomicAdd(simt::map_shared(simt::shared<uint32_t>(), 0), second);
  simt::cluster_sync();
}

void the_longest_path_is_counted_in_every_order() {
  const std::vector<uint32_t> zeros(128);
  std::vector<uint32_t> out(64);
  uint32_t tickets = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const uint32_t* x = zeros.data();
    simt::Counts found = counts_of(launch_of(3, 64, 0, seed), follow, x, out.data());
    CHECK(is(found.read, 0, 0, 0) && is(found.finish, 1, 0, 5));
    found = counts_of(launch_of(1, 64, 0, seed), load_together, x, out.data());
    CHECK(is(found.read, 0, 0, 0) && is(found.finish, 0, 0, 2));
    found = counts_of(launch_of(5, 64, 8, seed), sum_of_last, x, &tickets, out.data());
    CHECK(is(found.read, 2, 0, 2) && is(found.finish, 2, 0, 6));
    found = counts_of(launch_of(4, 64, 8, seed, 2), meet, x);
    CHECK(is(found.read, 0, 0, 0) && is(found.finish, 1, 2, 2));
  }
}

void launches_add_up() {
  const std::vector<uint32_t> zeros(128);
  std::vector<uint32_t> out(64);
  simt::counts = {};
  for (int launch = 0; launch < 2; ++launch) {
    CHECK(error_of(launch_of(1, 64, 0, 0), follow, zeros.data(), out.data()) == "");
  }
  CHECK(is(simt::counts.finish, 2, 0, 10));
}

}  // namespace

int main() {
  the_longest_path_is_counted_in_every_order();
  launches_add_up();
  printf("counts: %d failures\n", failures);
  return failures != 0;
}
