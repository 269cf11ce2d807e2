// A warp's mass of a tile, which takes short cuts through rounding, beside the sum of token_mass,
// which does not: every distance from the reference, every kind of edge, NaN and empty tiles.
#include <math.h>

#include <random>
#include <vector>

#include "cuda/common/tile.cuh"
#include "emulator/cuda_device.h"
#include "tests/check.h"

namespace {

using eft::kGroup;
using eft::TileSummary;

__global__ void summarise_tile(const float* z, float c, TileSummary* out) {
  eft::RowInputs inputs{};
  inputs.models[0] = {reinterpret_cast<const char*>(z), 1.0f, -0x1.fffffep127f, EFT_FP32};
  inputs.num_terms = 1;
  inputs.vocab_size = eft::kTile;
  inputs.c = c;
  float own[kGroup];
  bool bad = false;
  for (int i = 0; i < kGroup; ++i) {
    own[i] = z[eft::piece_id(0, i / 8, int(threadIdx.x)) + i % 8];
    bad |= !(own[i] * c < INFINITY);
  }
  out[threadIdx.x] = eft::summarise<false>(inputs, 0, int(threadIdx.x), own, bad, true);
}

bool same(float x, float y) { return x == y || (x != x && y != y); }

void check_tile(const std::vector<float>& z, float c) {
  static uint64_t seed = 0;
  TileSummary found[32];
  simt::Launch how;
  how.threads = 32;
  how.seed = seed++;
  simt::launch(how, summarise_tile, z.data(), c, found);
  float largest = -INFINITY;
  bool bad = false;
  for (float x : z) {
    bad |= !(x * c < INFINITY);
    largest = fmaxf(largest, x);
  }
  if (bad) largest = NAN;
  uint64_t mass = 0;
  const float a = floorf(largest * c);
  for (float x : z) {
    if (a > -INFINITY) mass += eft::token_mass(x * c, a);
  }
  for (const TileSummary& lane : found) CHECK(same(lane.max, largest) && lane.mass == mass);
  for (int l = 0; l < 32; ++l) {
    float group = -INFINITY;
    for (int i = 0; i < kGroup; ++i) group = fmaxf(group, z[eft::piece_id(0, i / 8, l) + i % 8]);
    CHECK(same(found[l].group_max, group));
  }
}

std::vector<float> tile_of(float value) { return std::vector<float>(eft::kTile, value); }

}  // namespace

int main() {
  std::mt19937_64 random(1);
  const auto uniform = [&](float low, float high) {
    return low + (high - low) * float(random() >> 40) * 0x1p-24f;
  };
  // Tops of every size, tokens from there down to far below all mass.
  for (float top : {0.0f, 0.99999f, -0.0f, 1.0f, -1.0f, 7.5f, -123.25f, 1000.0f, -99999.0f, 1e6f,
                    -1.04e6f, 1.06e6f, 1e9f, -3e15f, 1e30f, -1e30f, 0x1p-140f}) {
    for (float c : {1.0f, 1.4426950f, 0.01f, 577.0f}) {
      for (float depth : {0.001f, 1.0f, 45.0f, 130.0f, 1e5f}) {
        std::vector<float> z = tile_of(0);
        for (float& x : z) x = (top - uniform(0, depth)) / c;
        check_tile(z, c);
        // Exact powers of two, and one unit to either side of them.
        for (size_t i = 0; i < z.size(); ++i) {
          const float whole = floorf(top) - float(i / 16 % 64);
          z[i] = i % 3 == 0   ? whole
                 : i % 3 == 1 ? nextafterf(whole, -INFINITY)
                              : nextafterf(whole, INFINITY);
        }
        check_tile(z, 1.0f);
        for (size_t i = 0; i < z.size(); i += 1 + random() % 5) z[i] = -INFINITY;
        check_tile(z, c);
      }
    }
  }
  for (float value : {0.0f, -5.5f, 0x1.fffffep126f, 0x1p-149f, -INFINITY})
    check_tile(tile_of(value), 1.0f);
  for (float spoilt : {float(NAN), float(INFINITY)}) {
    std::vector<float> z = tile_of(1);
    z[random() % z.size()] = spoilt;
    check_tile(z, 1.0f);
  }
  std::vector<float> one = tile_of(-INFINITY);
  one[777] = 3.25f;
  check_tile(one, 1.0f);
  one[778] = 3e38f;
  check_tile(one, 2.0f);  // t overflows
  printf("tile: %d failures\n", failures);
  return failures != 0;
}
