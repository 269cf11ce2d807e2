#include "cpu/scratch.h"

#include <new>

#include "common/mass.h"

namespace eft {
namespace {

int64_t groups(int64_t n) { return padded(n) / kLanes; }
int64_t tiles(int64_t n) { return (n + kTile - 1) / kTile; }

}  // namespace

uint64_t Scratch::bytes(int64_t n) {
  const uint64_t per_row = 4 * padded(n) + 4 * groups(n) + (4 + 4 + 8) * tiles(n);
  return 2 * per_row + sizeof(Candidate) * n + 4 * groups(n) + 8 * kCuts * tiles(n) + 4 * 6 * kTile;
}

bool Scratch::reserve(int64_t n) {
  if (n <= capacity_) return true;
  try {
    for (int i = 0; i < 2; ++i) {
      t_[i].reset(new float[padded(n)]);
      group_max_[i].reset(new float[groups(n)]);
      tile_max_[i].reset(new float[tiles(n)]);
      tile_reference_[i].reset(new float[tiles(n)]);
      tile_mass_[i].reset(new uint64_t[tiles(n)]);
    }
    values_.reset(new float[groups(n)]);
    staging_.reset(new float[6 * kTile]);
    sums_.reset(new uint64_t[tiles(n)][kCuts]);
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
  row.group_max = group_max_[which].get();
  row.tile_max = tile_max_[which].get();
  row.tile_reference = tile_reference_[which].get();
  row.tile_mass = tile_mass_[which].get();
  row.n = n;
  return row;
}

}  // namespace eft
