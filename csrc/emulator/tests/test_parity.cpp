// Parity with CUDA: warp primitives, atomics, roundings and the instructions of
// csrc/cuda/common/device.cuh.
#include "cuda/common/device.cuh"
#include "emulator/race_detector.h"
#include "emulator/tests/small_launch.h"
#include "tests/check.h"

namespace {

// Warp primitives beside their values in closed form.
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
    CHECK(error_of(launch_of(2, 128, 0, seed), warp_primitives, &failed) == "");
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
  for (uint64_t seed : {0, 4, 8, 1, 5}) {  // a loop that waits needs a fair order
    uint32_t at[6] = {0, 0, ~0u, 0, ~0u, 0};
    int negative = 0;
    unsigned long long wide[2] = {0, 0};
    Launch how = launch_of(1, 96, 0, seed);
    CHECK(error_of(how, atomics, at, &negative, wide) == "");
    CHECK(at[0] == 96 * 95 / 2 && at[1] == 95 && at[2] == 0 && at[3] == ~0u);
    CHECK(at[4] == 0xffff0000u && at[5] == 96 && negative == -95);
    CHECK(wide[0] == 96ull << 33 && wide[1] == ~0ull);
  }
}

}  // namespace

int main() {
  warp_primitives_are_right();
  bits_and_roundings_are_right();
  the_chips_own_instructions_are_right();
  atomics_are_right();
  printf("parity%s: %d failures\n", simt::detects_races() ? " with races" : "", failures);
  return failures != 0;
}
