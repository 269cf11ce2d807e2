// A tile's 1024 tokens in a warp: 32 a lane (a group), in four pieces of 8, so that each
// load of a warp is 512 bytes in a row.
#ifndef EFT_CUDA_COMMON_TILE_LAYOUT_CUH_
#define EFT_CUDA_COMMON_TILE_LAYOUT_CUH_

#include "common/mass.h"
#include "cuda/common/device.cuh"

namespace eft {
namespace {

constexpr int kPiece = 8;                // tokens: 16 bytes, or 32 where they are fp32
constexpr int kGroup = 32;               // tokens of a tile that one lane holds
constexpr int kGroups = kTile / kGroup;  // of a tile, one a lane

// Token ids of piece j of the group that `lane` holds: 8 from here on.
__device__ __forceinline__ int piece_id(int tile, int j, int lane) {
  return tile * kTile + j * (kTile / 4) + lane * kPiece;
}

__device__ __forceinline__ int token_id(int tile, int lane, int i) {
  return piece_id(tile, i / kPiece, lane) + i % kPiece;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_COMMON_TILE_LAYOUT_CUH_
