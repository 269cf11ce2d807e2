// Memory order between threads, and overruns: races and accesses past the end are found and named.
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "emulator/asan.h"
#include "emulator/race_detector.h"
#include "emulator/tests/small_launch.h"
#include "tests/check.h"

namespace {

// Each block of a cluster adds up what all blocks have written into their shared memory.
__global__ void cluster_sum(uint32_t* sums, int barriers) {
  uint32_t* own = simt::shared<uint32_t>();
  own[threadIdx.x] = blockIdx.x * 100 + threadIdx.x;
  if (barriers & 1) simt::cluster_sync();
  uint32_t sum = 0;
  for (unsigned rank = 0; rank < simt::cluster_size(); ++rank)
    sum += simt::map_shared(own, rank)[threadIdx.x];
  sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
  if (barriers & 2) simt::cluster_sync();
}

void clusters_are_right() {
  for (uint64_t seed = 0; seed < 16; ++seed) {
    std::vector<uint32_t> sums(8 * 64);
    const Launch how = launch_of(8, 64, 256, seed, 4);
    CHECK(error_of(how, cluster_sum, sums.data(), 3) == "");
    for (unsigned b = 0; b < 8; ++b)
      for (unsigned t = 0; t < 64; ++t) CHECK(sums[b * 64 + t] == 4 * t + (b < 4 ? 600 : 2200));
    if (!simt::detects_races()) continue;
    CHECK(contains(error_of(how, cluster_sum, sums.data(), 2), "race: byte"));
    // Without the second barrier a block may end while others read its memory.
    CHECK(contains(error_of(how, cluster_sum, sums.data(), 1), "after its block has ended"));
  }
}

// Blocks write, and the last one to finish adds everything up: the ticket of the streaming step.
// `fences`: 1 before the ticket, 2 after it; 4: each thread fences its own writes before the
// barrier.
__global__ void ticket_sum(uint32_t* partial, uint32_t* ticket, uint32_t* sum, int fences) {
  const unsigned n = blockDim.x;
  partial[blockIdx.x * n + threadIdx.x] = blockIdx.x + threadIdx.x;
  if (fences & 4) __threadfence();
  __syncthreads();
  bool last = false;
  if (threadIdx.x == 0) {
    if (fences & 1) __threadfence();
    last = atomicAdd(ticket, 1) == gridDim.x - 1;
    if (fences & 2) __threadfence();
  }
  if (!__syncthreads_or(last) || threadIdx.x) return;
  uint32_t all = 0;
  for (unsigned i = 0; i < gridDim.x * n; ++i) all += partial[i];
  *sum = all;
  *ticket = 0;
}

void tickets_want_their_fences() {
  for (uint64_t seed = 0; seed < 16; ++seed) {
    std::vector<uint32_t> partial(6 * 32);
    uint32_t ticket = 0, sum = 0;
    simt::watch(partial.data(), partial.size() * 4, "partial");
    simt::watch(&ticket, 4, "ticket");
    for (int fences : {3, 6, 7, 0, 1, 2, 4}) {
      const std::string error =
          error_of(launch_of(6, 32, 0, seed), ticket_sum, partial.data(), &ticket, &sum, fences);
      const bool enough = fences & 2 && fences & 5;
      CHECK((error == "") == (enough || !simt::detects_races()));
      CHECK(error != "" || (sum == 32 * 15 + 6 * 496 && ticket == 0));
      CHECK(error == "" || (contains(error, " of partial") && contains(error, "not ordered")));
      ticket = 0;
    }
    simt::unwatch();
  }
}

// A warp passes values through shared memory: __syncwarp orders that, a shuffle does not.
__global__ void through_shared(uint32_t* out, bool sync) {
  uint32_t* own = simt::shared<uint32_t>();
  own[threadIdx.x] = threadIdx.x;
  if (sync) {
    __syncwarp();
  } else {
    __shfl_sync(kFull, 0, 0);
  }
  out[threadIdx.x] = own[threadIdx.x ^ 1];
}
__global__ void reads_what_nobody_wrote(uint32_t* out) {
  out[threadIdx.x] = simt::shared<uint32_t>()[threadIdx.x];
}

void only_syncwarp_orders_memory() {
  if (!simt::detects_races()) return;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    std::vector<uint32_t> out(64);
    CHECK(error_of(launch_of(1, 64, 256, seed), through_shared, out.data(), true) == "");
    CHECK(out[5] == 4);
    CHECK(contains(error_of(launch_of(1, 64, 256, seed), through_shared, out.data(), false),
                   "not ordered"));
    CHECK(error_of(launch_of(1, 64, 256, seed), reads_what_nobody_wrote, out.data()) == "");
    simt::forbid_unwritten(true);
    const std::string error =
        error_of(launch_of(1, 64, 256, seed), reads_what_nobody_wrote, out.data());
    simt::forbid_unwritten(false);
    CHECK(contains(error, "which nobody has written"));
  }
}

// ---- errors of AddressSanitizer, each in a process of its own ----

template <class Body>
[[maybe_unused]] std::string dying_words(Body body) {
  int ends[2];
  if (pipe(ends)) return "";
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    body();
    _exit(0);
  }
  close(ends[1]);
  std::string words(1 << 16, 0);
  size_t size = 0;
  for (ssize_t n; (n = read(ends[0], &words[size], words.size() - size)) > 0;) size += size_t(n);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  words.resize(size);
  return status == 0 ? "" : words;
}

[[maybe_unused]] __global__ void writes_past_the_end(int past) {
  simt::shared<char>()[simt::shared_bytes() - 1 + past] = 1;
}

void overruns_are_found() {
#if EFT_ASAN
  const auto writes = [](int past) {
    return [=] { error_of(launch_of(2, 32, 1000, 0), writes_past_the_end, past); };
  };
  CHECK(dying_words(writes(0)) == "");
  const std::string words = dying_words(writes(1));
  CHECK(contains(words, "heap-buffer-overflow") && contains(words, "writes_past_the_end"));
  // A block that has ended takes its shared memory with it.
  std::vector<uint32_t> sums(8 * 64);
  bool found = false;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    found |= contains(
        dying_words([&] { error_of(launch_of(8, 64, 256, seed, 4), cluster_sum, sums.data(), 1); }),
        "use-after-poison");
  }
  CHECK(found);
#endif
}

}  // namespace

int main() {
  clusters_are_right();
  tickets_want_their_fences();
  only_syncwarp_orders_memory();
  overruns_are_found();
  printf("memory_order%s: %d failures\n", simt::detects_races() ? " with races" : "", failures);
  return failures != 0;
}
