// The first tokens of a row in some order, by one warp. The tile that holds the next one is read
// again; only a bound is kept for each tile, so lists may be of any length.
#ifndef EFT_CUDA_SCORE_LIST_CUH_
#define EFT_CUDA_SCORE_LIST_CUH_

#include "cuda/common/rank.cuh"
#include "cuda/common/tile_layout.cuh"

namespace eft {
namespace {

constexpr uint64_t kNoKey = ~uint64_t(0);

// Walks down a row's rank: larger values first, then lower ids. `bounds`, in shared memory, hold
// for each tile a key that none of its tokens left is below. Lane l keeps tiles l, l + 32, ...
struct TileWalk {
  uint64_t* bounds;
  int num_tiles;

  // `max(tile)`: the largest value of a tile; those up to `floor` hold nothing.
  template <class Max>
  __device__ void start(float floor, const Max& max) const {
    for (int tile = int(threadIdx.x % 32); tile < num_tiles; tile += 32) {
      const float top = max(tile);
      bounds[tile] = top > floor ? rank_key(top, uint32_t(tile * kTile)) : kNoKey;
    }
  }

  // The lowest bound of all: its tile holds the next of the row.
  __device__ uint64_t lowest() const {
    uint64_t key = kNoKey;
    for (int tile = int(threadIdx.x % 32); tile < num_tiles; tile += 32) {
      key = smaller_key(key, bounds[tile]);
    }
    return warp_min(key);
  }

  __device__ void raise(int tile, uint64_t bound) const {
    if (tile % 32 == int(threadIdx.x % 32)) bounds[tile] = bound;
  }

  __device__ static uint64_t smaller_key(uint64_t a, uint64_t b) { return a < b ? a : b; }
};

// The two lowest keys, from `bound` on, of the tokens that a warp adds.
struct TwoLowest {
  uint64_t bound, first = kNoKey, second = kNoKey;

  __device__ explicit TwoLowest(uint64_t from) : bound(from) {}

  __device__ void add(float value, float floor, uint32_t id) {
    const uint64_t key = rank_key(value, id);
    if (!(value > floor) || key < bound || key >= second) return;
    second = key < first ? first : key;
    first = key < first ? key : first;
  }
  // Joins the lanes' keys: all lanes get the warp's. Keys are unique.
  __device__ void join() {
    const uint64_t lowest = warp_min(first);
    second = warp_min(first == lowest ? second : first);
    first = lowest;
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_SCORE_LIST_CUH_
