// The source from which a team reads a row's summaries and tokens again: global memory (streaming),
// or the shared memory of its cluster (resident). A group is the 32 tokens of one lane.
#ifndef EFT_CUDA_STEP_SOURCE_CUH_
#define EFT_CUDA_STEP_SOURCE_CUH_

#include "cuda/common/mix.cuh"
#include "cuda/step/groups.cuh"

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
  // The tiles' summaries: every thread asks for two at most, and puts them where all see them. Ends
  // with a barrier.
  struct Tiles {
    static constexpr int kEach = kMaxTiles / kStreamThreads;
    float max[kEach];
    uint64_t mass[kEach];
  };
  __device__ __forceinline__ Tiles load_tiles() const {
    [[maybe_unused]] const OneRoundTrip together;
    Tiles tiles;
#pragma unroll
    for (int i = 0; i < Tiles::kEach; ++i) {
      const int tile = int(thread_index()) + i * kStreamThreads;
      tiles.max[i] = -INFINITY;
      tiles.mass[i] = 0;
      if (tile >= num_tiles) continue;
      tiles.max[i] = load_written(space->tile_max + first_tile + tile);
      tiles.mass[i] = load_written(space->tile_mass + first_tile + tile);
    }
    return tiles;
  }
  __device__ __forceinline__ void put_tiles(const Tiles& tiles, RowWork& to) const {
#pragma unroll
    for (int i = 0; i < Tiles::kEach; ++i) {
      const int tile = int(thread_index()) + i * kStreamThreads;
      if (tile >= padded_tiles(num_tiles)) continue;
      to.tile_max[tile] = tiles.max[i];
      to.tile_mass[tile] = tiles.mass[i];
    }
    __syncthreads();
  }
  __device__ const float* stats() const { return space->stats + first_tile * kMaxStats; }

  // 8 tokens: `load` asks for those from `id` on, `load_own` for piece j of a group, and `mix`
  // waits for them. For any models `mix` does both.
  static constexpr bool kHasRaw = kNumBf16Models > 0;
  static constexpr int kInFlight = !kHasRaw ? 1 : kNumBf16Models < 3 ? 4 : 3;  // pieces
  struct Raw {
    Bits128 x[1][kHasRaw ? kNumBf16Models : 1];
  };
  __device__ __forceinline__ void load(int id, Raw& raw) const {
    if constexpr (kHasRaw) load_bf16_piece<kNumBf16Models>(w->inputs, id, raw.x);
  }
  __device__ __forceinline__ void load_own(int group, int j, Raw& raw) const {
    load(piece_id(group / kGroups, j, group % kGroups), raw);
  }
  __device__ __forceinline__ void mix(int id, Raw& raw, float* z) const {
    if constexpr (kHasRaw) {
      mix_bf16_piece<kNumBf16Models>(w->inputs, id, raw.x, z);
      set_special<1>(w->inputs, id, 0, z, false);
    } else {
      mix_any_piece<kConservative>(w->inputs, id, z);
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
  // Every block has sent its own to all.
  struct Tiles {};
  __device__ Tiles load_tiles() const { return {}; }
  __device__ void put_tiles(const Tiles&, RowWork&) const {}

  static constexpr int kInFlight = 1;
  struct Raw {
    Bits128 x[kPiece / 4];
  };
  // From whichever block owns the tile.
  __device__ void load(int id, Raw& raw) const {
    const int tile = id / kTile;
    copy_piece(map_shared(z + tile / int(size) * kTile + id % kTile, uint32_t(tile) % size), raw);
  }
  __device__ void load_own(int group, int j, Raw& raw) const {
    copy_piece(z + piece_id(group / kGroups, j, group % kGroups), raw);
  }
  __device__ void mix(int, const Raw& raw, float* out) const {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) out[i] = __uint_as_float(raw.x[i / 4].x[i % 4]);
  }

 private:
  __device__ static void copy_piece(const float* from, Raw& raw) {
#pragma unroll
    for (int i = 0; i < kPiece / 4; ++i) {
      raw.x[i] = *reinterpret_cast<const Bits128*>(from + 4 * i);
    }
  }
};

// z of one token of the row.
template <class Source>
__device__ __forceinline__ float z_of_token(const Source& source, int token) {
  const int in_piece = token % kPiece;
  float z[kPiece];
  typename Source::Raw raw;
  source.load(token - in_piece, raw);
  source.mix(token - in_piece, raw, z);
  return token_of_piece(z, in_piece);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_SOURCE_CUH_
