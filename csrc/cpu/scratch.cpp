#include "cpu/scratch.h"

#include <new>

#include "common/mass.h"

namespace eft {
namespace {

int64_t blocks(int64_t n) { return (n + kBlock - 1) / kBlock; }
int64_t tiles(int64_t n) { return (n + kTile - 1) / kTile; }

}  // namespace

uint64_t Scratch::bytes(int64_t n) {
  const uint64_t per_row = 4 * n + 4 * blocks(n) + (4 + 8) * tiles(n);
  return 2 * per_row + sizeof(Candidate) * n + 4 * blocks(n) + 4 * 6 * kTile;
}

bool Scratch::reserve(int64_t n) {
  if (n <= capacity_) return true;
  try {
    for (int i = 0; i < 2; ++i) {
      t_[i].reset(new float[n]);
      block_max_[i].reset(new float[blocks(n)]);
      tile_reference_[i].reset(new float[tiles(n)]);
      tile_mass_[i].reset(new uint64_t[tiles(n)]);
    }
    values_.reset(new float[blocks(n)]);
    staging_.reset(new float[6 * kTile]);
    candidates_.reset(new Candidate[n]);
  } catch (const std::bad_alloc&) {
    capacity_ = 0;
    return false;
  }
  capacity_ = n;
  return true;
}

Row Scratch::row(int which, int64_t n) {
  Row row{};
  row.t = t_[which].get();
  row.block_max = block_max_[which].get();
  row.tile_reference = tile_reference_[which].get();
  row.tile_mass = tile_mass_[which].get();
  row.n = n;
  return row;
}

}  // namespace eft
