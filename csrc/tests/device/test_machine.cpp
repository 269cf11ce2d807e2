// The machine that runs kernels without a GPU, on small kernels: what is right is computed in every
// order of threads, what is wrong is found and named.
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "cuda/device.h"
#include "tests/check.h"
#include "tests/device/asan.h"
#include "tests/device/cuda_host.h"
#include "tests/device/races.h"

namespace {

using cuda_host::Launch;
constexpr uint32_t kFull = 0xffffffffu;

Launch of(unsigned grid, unsigned threads, size_t shared, uint64_t seed, unsigned cluster = 1) {
  Launch launch;
  launch.grid = grid;
  launch.threads = threads;
  launch.cluster = cluster;
  launch.shared_bytes = shared;
  launch.seed = seed;
  launch.switches = 2'000'000;
  return launch;
}

template <class... P, class... A>
std::string error_of(const Launch& how, void (*kernel)(P...), A... arguments) {
  try {
    cuda_host::launch(how, kernel, arguments...);
  } catch (const cuda_host::Error& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

// Sum of each block's numbers; `barriers` 0 leaves out the one between writing and reading.
__global__ void block_sum(const uint32_t* x, uint32_t* sums, bool barriers) {
  uint32_t* partial = cuda_host::shared<uint32_t>();
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
    CHECK(error_of(of(8, 256, 32, seed), block_sum, x.data(), sums.data(), true) == "");
    for (size_t b = 0; b < 8; ++b) {
      uint32_t want = 0;
      for (size_t i = 0; i < 256; ++i) want += x[256 * b + i];
      CHECK(sums[b] == want);
    }
    // Planted: without the barrier the detector reports, and elsewhere the sums come out wrong.
    const std::string error =
        error_of(of(8, 256, 32, seed), block_sum, x.data(), sums.data(), false);
    if (cuda_host::detects_races()) {
      CHECK(has(error, "race: byte") && has(error, "shared memory of block"));
      CHECK(has(error, "test_machine.cpp") || has(error, "0x"));
      continue;
    }
    CHECK(error == "");
    for (size_t b = 0; b < 8; ++b) {
      uint32_t want = 0;
      for (size_t i = 0; i < 256; ++i) want += x[256 * b + i];
      wrong += sums[b] != want;
    }
  }
  CHECK(cuda_host::detects_races() || wrong > 100);
}

// What warps compute, beside a plain loop over the lanes.
__global__ void warp_primitives(int* failed) {
  const unsigned t = threadIdx.x, l = t % 32;
  const uint64_t wide = uint64_t(t) << 40 | l;
  int bad = 0;
  bad |= __shfl_xor_sync(kFull, wide, 5) != (uint64_t(t ^ 5) << 40 | (l ^ 5));
  bad |= __shfl_up_sync(kFull, float(l), 3) != float(l < 3 ? l : l - 3);
  bad |= __shfl_down_sync(kFull, int(l), 2, 8) != int(l % 8 < 6 ? l + 2 : l);
  bad |= __shfl_sync(kFull, l, 35) != 3;
  bad |= __ballot_sync(kFull, l & 1) != 0xaaaaaaaau;
  bad |= __any_sync(kFull, l == 7) != 1 || __all_sync(kFull, l == 7) != 0;
  bad |= __match_any_sync(kFull, l % 4) != 0x11111111u << l % 4;
  bad |= __reduce_max_sync(kFull, int(l) - 40) != -9 || __reduce_min_sync(kFull, l + 3) != 3;
  bad |= __reduce_or_sync(kFull, 1u << l) != kFull || __reduce_and_sync(kFull, ~(1u << l)) != 0;
  // Halves of a warp on their own ways.
  const uint32_t half = l < 16 ? 0xffffu : 0xffff0000u;
  bad |= __reduce_add_sync(half, 1u) != 16;
  if (l < 16) bad |= __shfl_xor_sync(0xffffu, l, 8) != (l ^ 8);
  bad |= __syncthreads_count(t % 3 == 0) != 43 || !__syncthreads_or(t == 99);
  bad |= __syncthreads_and(t != 99);
  if (bad) atomicAdd(failed, 1);
}

void warp_primitives_are_right() {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    int failed = 0;
    CHECK(error_of(of(2, 128, 0, seed), warp_primitives, &failed) == "");
    CHECK(failed == 0);
  }
}

void bits_and_roundings_are_right() {
  CHECK(__popc(0xf0f0u) == 8 && __clz(1) == 31 && __clz(0) == 32 && __clzll(1) == 63);
  CHECK(__ffs(8) == 4 && __ffs(0) == 0 && __brev(1) == 0x80000000u && __brevll(1) == 1ull << 63);
  CHECK(__umulhi(1u << 31, 6) == 3 && __umul64hi(1ull << 63, 6) == 3);
  CHECK(__funnelshift_l(0x80000000u, 1, 1) == 3 && __funnelshift_r(2, 1, 1) == 0x80000001u);
  CHECK(__byte_perm(0x33221100u, 0x77665544u, 0x6420u) == 0x66442200u);
  CHECK(__float2int_rz(3e9f) == 0x7fffffff && __float2int_rd(-1.5f) == -2);
  CHECK(__float2int_rz(NAN) == 0 && __float2uint_rz(-1.0f) == 0 && __float2int_rn(2.5f) == 2);
}

uint32_t squares(float sum, float x) {  // of the low half of a pair
  const auto bits = [](float v) { return __float_as_uint(v) >> 16; };
  return eft::add_squares(bits(sum), bits(x)) & 0xffffu;
}

void the_chips_own_instructions_are_right() {
  CHECK(squares(1, 2) == 0x40a0 && squares(INFINITY, 1) == 0x7f80 && squares(NAN, 1) == 0x7fff);
  CHECK(squares(0, 0x1p64f) == 0x7f80 && squares(0, -0x1p63f) == 0x7e80);
  CHECK(squares(0, 0x1p-66f) == 0x0002 && squares(0, 0x1p-67f) == 0x0000);
  // 1.0703125^2 is 1.1455688..., a sum of 16 bits: nearest is 0x3f93. With sums that break ties.
  CHECK(squares(0, 1.0703125f) == 0x3f93);
  CHECK(squares(0, 1.0625f) == 0x3f90);          // 1.12890625, a tie between 0x3f90 and 0x3f91
  CHECK(squares(0x1p-120f, 1.0625f) == 0x3f91);  // and just above it
  CHECK(squares(-0x1p-120f, 1.0625f) == 0x3f90);
  CHECK(eft::half_to_float(0x3c01) == 1.0009765625f && eft::half_to_float(1) == 0x1p-24f);
  CHECK(eft::add_down(1, 0x1p-30f) == 1 && eft::add_down(1, -0x1p-30f) == 0x1.fffffep-1f);
  CHECK(eft::add_down(0x1.8p23f, 0.75f) == 0x1.8p23f &&
        eft::add_down(-0x1.8p23f, 0.25f) == -0x1.8p23f);
  CHECK(eft::add_down(-INFINITY, 1) == -INFINITY && !(eft::add_down(NAN, 1) == 0));
  CHECK(eft::add_down(0x1.fffffep127f, 0x1.fffffep127f) == 0x1.fffffep127f);
}

// ---- what must be named ----

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
    std::string error = error_of(of(1, 64, 0, seed), one_thread_misses_the_barrier);
    CHECK(has(error, "deadlock: 63 threads") && has(error, "__syncthreads (test_machine.cpp:"));
    CHECK(has(error, "1 have ended"));
    error = error_of(of(1, 64, 0, seed), two_barriers);
    CHECK(has(error, "__syncthreads (test_machine.cpp:") && has(error, "of this block is at"));
    error = error_of(of(1, 32, 0, seed), diverged_shuffle, out.data());
    CHECK(has(error, "__shfl_sync (test_machine.cpp:") && has(error, "diverged"));
    error = error_of(of(1, 32, 0, seed), lane_that_ended, out.data());
    CHECK(has(error, "lane 3 of the mask has ended"));
    error = error_of(of(1, 32, 0, seed), lane_outside_its_mask, out.data());
    CHECK(has(error, "the calling lane is not in the mask"));
    error = error_of(of(1, 32, 0, seed), reads_outside_the_mask, out.data());
    CHECK(has(error, "reads lane 9, which is not in the mask"));
  }
  uint32_t flag = 0;
  CHECK(has(error_of(of(1, 32, 0, 0), waits_for_ever, &flag), "endless"));
}

// Each block of a cluster adds up what all blocks have written into their shared memory.
__global__ void cluster_sum(uint32_t* sums, int barriers) {
  uint32_t* own = cuda_host::shared<uint32_t>();
  own[threadIdx.x] = blockIdx.x * 100 + threadIdx.x;
  if (barriers & 1) cuda_host::cluster_sync();
  uint32_t sum = 0;
  for (unsigned rank = 0; rank < cuda_host::cluster_size(); ++rank)
    sum += cuda_host::map_shared(own, rank)[threadIdx.x];
  sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
  if (barriers & 2) cuda_host::cluster_sync();
}

void clusters_are_right() {
  for (uint64_t seed = 0; seed < 16; ++seed) {
    std::vector<uint32_t> sums(8 * 64);
    const Launch how = of(8, 64, 256, seed, 4);
    CHECK(error_of(how, cluster_sum, sums.data(), 3) == "");
    for (unsigned b = 0; b < 8; ++b)
      for (unsigned t = 0; t < 64; ++t) CHECK(sums[b * 64 + t] == 4 * t + (b < 4 ? 600 : 2200));
    if (!cuda_host::detects_races()) continue;
    CHECK(has(error_of(how, cluster_sum, sums.data(), 2), "race: byte"));
    // Nothing keeps a block's memory alive while others read it.
    CHECK(has(error_of(how, cluster_sum, sums.data(), 1), "after its block has ended"));
  }
}

// Blocks write, the last one to finish adds everything up: the ticket of the streaming step.
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
    cuda_host::watch(partial.data(), partial.size() * 4, "partial");
    cuda_host::watch(&ticket, 4, "ticket");
    for (int fences : {3, 6, 7, 0, 1, 2, 4}) {
      const std::string error =
          error_of(of(6, 32, 0, seed), ticket_sum, partial.data(), &ticket, &sum, fences);
      const bool enough = fences & 2 && fences & 5;
      CHECK((error == "") == (enough || !cuda_host::detects_races()));
      CHECK(error != "" || (sum == 32 * 15 + 6 * 496 && ticket == 0));
      CHECK(error == "" || (has(error, " of partial") && has(error, "not ordered")));
      ticket = 0;
    }
    cuda_host::unwatch();
  }
}

// A warp hands values through shared memory: only __syncwarp orders that, a shuffle does not.
__global__ void through_shared(uint32_t* out, bool sync) {
  uint32_t* own = cuda_host::shared<uint32_t>();
  own[threadIdx.x] = threadIdx.x;
  if (sync) {
    __syncwarp();
  } else {
    __shfl_sync(kFull, 0, 0);
  }
  out[threadIdx.x] = own[threadIdx.x ^ 1];
}
__global__ void reads_what_nobody_wrote(uint32_t* out) {
  out[threadIdx.x] = cuda_host::shared<uint32_t>()[threadIdx.x];
}

void only_syncwarp_orders_memory() {
  if (!cuda_host::detects_races()) return;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    std::vector<uint32_t> out(64);
    CHECK(error_of(of(1, 64, 256, seed), through_shared, out.data(), true) == "");
    CHECK(out[5] == 4);
    CHECK(has(error_of(of(1, 64, 256, seed), through_shared, out.data(), false), "not ordered"));
    CHECK(error_of(of(1, 64, 256, seed), reads_what_nobody_wrote, out.data()) == "");
    cuda_host::forbid_unwritten(true);
    const std::string error = error_of(of(1, 64, 256, seed), reads_what_nobody_wrote, out.data());
    cuda_host::forbid_unwritten(false);
    CHECK(has(error, "which nobody has written"));
  }
}

// Atomics of every kind, all threads on one word.
__global__ void atomics(uint32_t* at, int* negative, unsigned long long* wide) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&at[0], i);
  atomicMax(&at[1], i);
  atomicMin(&at[2], i);
  atomicOr(&at[3], 1u << i % 32);
  atomicAnd(&at[4], ~(1u << i % 16));
  while (atomicCAS(&at[5], i, i + 1) != i) continue;
  atomicMin(negative, -int(i));
  atomicAdd(wide, 1ull << 33);
  atomicMax(wide + 1, ~0ull - i);
}

void atomics_are_right() {
  for (uint64_t seed : {0, 4, 8, 1, 5}) {  // a waiting loop wants an order that is fair
    uint32_t at[6] = {0, 0, ~0u, 0, ~0u, 0};
    int negative = 0;
    unsigned long long wide[2] = {0, 0};
    Launch how = of(1, 96, 0, seed);
    CHECK(error_of(how, atomics, at, &negative, wide) == "");
    CHECK(at[0] == 96 * 95 / 2 && at[1] == 95 && at[2] == 0 && at[3] == ~0u);
    CHECK(at[4] == 0xffff0000u && at[5] == 96 && negative == -95);
    CHECK(wide[0] == 96ull << 33 && wide[1] == ~0ull);
  }
}

// ---- what AddressSanitizer must see: in a process of its own ----

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
  cuda_host::shared<char>()[cuda_host::shared_bytes() - 1 + past] = 1;
}

void overruns_are_found() {
#if EFT_ASAN
  const auto writes = [](int past) {
    return [=] { error_of(of(2, 32, 1000, 0), writes_past_the_end, past); };
  };
  CHECK(dying_words(writes(0)) == "");
  const std::string words = dying_words(writes(1));
  CHECK(has(words, "heap-buffer-overflow") && has(words, "writes_past_the_end"));
  // A block that has ended takes its shared memory with it.
  std::vector<uint32_t> sums(8 * 64);
  bool found = false;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    found |=
        has(dying_words([&] { error_of(of(8, 64, 256, seed, 4), cluster_sum, sums.data(), 1); }),
            "use-after-poison");
  }
  CHECK(found);
#endif
}

}  // namespace

int main() {
  sums_are_right_in_every_order();
  warp_primitives_are_right();
  bits_and_roundings_are_right();
  the_chips_own_instructions_are_right();
  what_would_hang_is_named();
  clusters_are_right();
  tickets_want_their_fences();
  only_syncwarp_orders_memory();
  atomics_are_right();
  overruns_are_found();
  printf("machine%s: %d failures\n", cuda_host::detects_races() ? " with races" : "", failures);
  return failures != 0;
}
