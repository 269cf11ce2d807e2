// Allocation of a thread's scratch memory.
#include "cpu/scratch.h"

#include <type_traits>

#include "common/mass.h"

namespace eft {
namespace {

int64_t groups(int64_t n) { return padded(n) / kLanes; }
int64_t tiles(int64_t n) { return (n + kTile - 1) / kTile; }

}  // namespace

uint64_t Scratch::bytes(int64_t n) {
  const uint64_t per_row = 4 * padded(n) + 4 * groups(n);
  return 2 * per_row + 3 * (4 + 4 + 8) * tiles(n) + 12 * (n + kListPadding) + (4 + 8) * tiles(n) +
         4 * 6 * kTile;
}

bool Scratch::reserve(int64_t n) {
  if (n <= capacity_) return true;
  capacity_ = 0;
  bool ok = true;
  const auto allocate = [&ok](auto& array, int64_t count) {
    using Element = std::remove_reference_t<decltype(array[0])>;
    const size_t bytes = (size_t(count) * sizeof(Element) + 63) / 64 * 64;
    array.reset(static_cast<Element*>(aligned_alloc(64, bytes)));
    ok &= array != nullptr;
  };
  for (int i = 0; i < 2; ++i) {
    allocate(t_[i], padded(n));
    allocate(group_max_[i], groups(n));
  }
  for (int i = 0; i < 3; ++i) {
    allocate(tile_max_[i], tiles(n));
    allocate(tile_reference_[i], tiles(n));
    allocate(tile_mass_[i], tiles(n));
  }
  allocate(maxima_, tiles(n));
  allocate(staging_, 6 * kTile);
  allocate(above_, tiles(n));
  allocate(list_t_, n + kListPadding);
  allocate(list_share_, n + kListPadding);
  allocate(list_id_, n + kListPadding);
  if (ok) capacity_ = n;
  return ok;
}

TokenList Scratch::token_list() { return {list_t_.get(), list_share_.get(), list_id_.get(), 0, 0}; }

Row Scratch::row(int which, int64_t n) {
  Row row{};
  row.t = which < 2 ? t_[which].get() : nullptr;
  row.group_max = which < 2 ? group_max_[which].get() : nullptr;
  row.tile_max = tile_max_[which].get();
  row.tile_reference = tile_reference_[which].get();
  row.tile_mass = tile_mass_[which].get();
  row.n = n;
  return row;
}

}  // namespace eft
