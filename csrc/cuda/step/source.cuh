// The source from which a team reads a row's tokens again: global memory (streaming), or the shared
// memory of its cluster (resident). A group is the 32 tokens of one lane.
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

  __device__ void make_opaque() { w = opaque_ptr(w); }

  __device__ int num_groups() const { return num_tiles * kGroups; }
  __device__ int tile_of(int group) const { return group / kGroups; }
  __device__ float group_max(int group) const { return load_written(w->group_maxima + group); }
  __device__ void load_group(int group, float* z) const {
    const int tile = group / kGroups, lane = group % kGroups;
    if constexpr (kNumBf16Models > 0) {
      if (w->inputs.all_bf16 && (tile + 1) * kTile <= w->inputs.vocab_size) {
        return mix_bf16_group<kNumBf16Models>(w->inputs, tile, lane, z);
      }
    }
    const int id = piece_id(tile, 0, lane);
    mix_pieces<2, kConservative>(w->inputs, id, kTile / 4, z);
    mix_pieces<2, kConservative>(w->inputs, id + kTile / 2, kTile / 4, z + kGroup / 2);
  }
  __device__ void load_piece(int group, int j, float* z) const {
    load_anywhere(piece_id(group / kGroups, j, group % kGroups), z);
  }
  __device__ void load_anywhere(int id, float* z) const {
    mix_pieces<1, kConservative>(w->inputs, id, 0, z);
  }
};

// Block r of a cluster of `size` owns tiles r, r + size, ...
struct ResidentSource {
  static constexpr bool kHasStats = false;  // rows that want them are streamed
  float* z;                                 // shared: [own tiles, 1024]
  const float* group_maxima;                // shared: [own tiles, 32]
  int num_tiles;                            // of the row
  uint32_t rank, size;

  __device__ void make_opaque() {
    z = opaque_ptr(z);
    group_maxima = opaque_ptr(group_maxima);
  }
  __device__ int num_groups() const {
    return int((uint32_t(num_tiles) + size - 1 - rank) / size) * kGroups;
  }
  __device__ int tile_of(int group) const { return group / kGroups * int(size) + int(rank); }
  __device__ float group_max(int group) const { return group_maxima[group]; }
  __device__ void load_group(int group, float* out) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) load_piece(group, j, out + j * kPiece);
  }
  __device__ void load_piece(int group, int j, float* out) const {
    copy_piece(z + piece_id(group / kGroups, j, group % kGroups), out);
  }
  // From whichever block owns the tile.
  __device__ void load_anywhere(int id, float* out) const {
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
