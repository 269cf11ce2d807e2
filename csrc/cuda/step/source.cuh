// The source from which a team reads a row's summaries and tokens again: global memory (streaming),
// or the shared memory of its cluster (resident). A group is the 32 tokens of one lane.
#ifndef EFT_CUDA_STEP_SOURCE_CUH_
#define EFT_CUDA_STEP_SOURCE_CUH_

#include "cuda/common/mix.cuh"
#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

// The one block of the team owns all groups; they are mixed again from the logits.
template <int kNumBf16Models, bool kConservative>
struct StreamSource {
  static constexpr bool kHasStats = true;
  RowWork* w;
  int num_tiles;
  const Workspace* space;
  int64_t first_tile;  // of the row, in the workspace

  __device__ int num_groups() const { return num_tiles * kGroups; }
  __device__ int tile_of(int group) const { return group / kGroups; }
  // The maxima of 4 groups.
  __device__ Bits128 load_maxima(int group) const {
    const float* from = space->group_max + first_tile * kGroups + group;
    return load_written(reinterpret_cast<const Bits128*>(from));
  }
  // The whole block: the tiles' summaries, for all of it.
  __device__ void load_tiles(RowWork& to) const {
#pragma unroll 1
    for (int i = thread_index(); i < padded_tiles(num_tiles); i += kStreamThreads) {
      [[maybe_unused]] const OneRoundTrip together;
      const bool inside = i < num_tiles;
      to.tile_max[i] = inside ? load_written(space->tile_max + first_tile + i) : -INFINITY;
      to.tile_mass[i] = inside ? load_written(space->tile_mass + first_tile + i) : 0;
    }
    __syncthreads();
  }
  __device__ const float* stats() const { return space->stats + first_tile * kMaxStats; }

  // 8 tokens from `id` on: load_raw asks for them, mix_raw waits and mixes. For any models mix_raw
  // does both.
  static constexpr bool kHasRaw = kNumBf16Models > 0;
  static constexpr int kInFlight = !kHasRaw ? 1 : kNumBf16Models < 3 ? 4 : 3;  // pieces
  struct Raw {
    Bits128 x[1][kHasRaw ? kNumBf16Models : 1];
  };
  __device__ __forceinline__ void load_raw(int id, Raw& raw) const {
    if constexpr (kHasRaw) load_bf16_piece<kNumBf16Models>(w->inputs, id, raw.x);
  }
  __device__ __forceinline__ void mix_raw(int id, Raw& raw, float* z) const {
    if constexpr (kHasRaw) {
      mix_bf16_piece<kNumBf16Models>(w->inputs, id, raw.x, z);
    } else {
      mix_pieces<1, kConservative>(w->inputs, id, 0, z);
    }
  }
};

// Block r of a cluster of `size` owns tiles r, r + size, ...
struct ResidentSource {
  static constexpr bool kHasStats = false;  // rows that want them are streamed
  float* z;                                 // shared: [own tiles, 1024]
  const float* group_maxima;                // shared: [own tiles, 32]
  int num_tiles;                            // of the row
  uint32_t rank, size;

  __device__ int num_groups() const {
    return int((uint32_t(num_tiles) + size - 1 - rank) / size) * kGroups;
  }
  __device__ int tile_of(int group) const { return group / kGroups * int(size) + int(rank); }
  __device__ Bits128 load_maxima(int group) const {
    return *reinterpret_cast<const Bits128*>(group_maxima + group);
  }
  __device__ void load_tiles(RowWork&) const {}  // every block has sent its own to all

  // From whichever block owns the tile.
  static constexpr int kInFlight = 1;
  struct Raw {};
  __device__ void load_raw(int, Raw&) const {}
  __device__ void mix_raw(int id, Raw&, float* out) const {
    const int tile = id / kTile;
    copy_piece(map_shared(z + tile / int(size) * kTile + id % kTile, uint32_t(tile) % size), out);
  }

 private:
  __device__ static void copy_piece(const float* from, float* out) {
#pragma unroll
    for (int i = 0; i < kPiece; i += 4) {
      const Bits128 b = *reinterpret_cast<const Bits128*>(from + i);
#pragma unroll
      for (int j = 0; j < 4; ++j) out[i + j] = __uint_as_float(b.x[j]);
    }
  }
};

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_SOURCE_CUH_
