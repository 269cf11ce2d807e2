// The threads that finish a row, one block or a cluster of them, and the shared memory they do it
// in. The first block leads: what concerns the whole row lies in its memory.
#ifndef EFT_CUDA_STEP_TEAM_CUH_
#define EFT_CUDA_STEP_TEAM_CUH_

#include "cuda/step/state.cuh"

namespace eft {
namespace {

constexpr int kBins = 1024;
constexpr int kList = 2048;       // candidates that a row's list holds
constexpr int kFew = 256;         // ranked against each other directly
constexpr int kVisited = 4096;    // groups visited at a time
constexpr int kMaxThreads = 512;  // of a block

// Weights by bins, 64 bits in two halves: shared memory adds 32 bits at a time.
struct Bins {
  uint32_t low[kBins], high[kBins], count[kBins];
};

struct alignas(16) RowWork {
  RowOptions options;
  Mixer mixer;
  Search search;
  RowTop top;
  // Of this row; here rather than in registers, which are short while tokens are at hand.
  int64_t row;
  int model;                      // kOwnNuclei
  const float* group_maxima;      // streaming: in the workspace, [num_tiles, 32]
  const float* stats;             // streaming: [num_tiles, kMaxStats]
  uint64_t tile_mass[kMaxTiles];  // of the leader: W_T, then the survivors'
  uint64_t list[kList];           // of the leader: candidates' keys
  union {
    Bins bins;
    uint64_t place_mass[kTile];  // of the drawn tile
  };
  uint64_t few[kFew], few_mass[kFew];
  uint64_t partial[kMaxThreads / 32];
  float tile_max[kMaxTiles];  // of the leader, z
  union {
    uint16_t visited[kVisited];
    float tile_z[kTile];  // of the drawn tile
  };
  uint32_t num_visited;
  // Of the leader: what the team has found.
  uint32_t list_count, few_count, num_kept, first;
  int32_t bin;  // that holds the place looked for, -1 if none does
  uint32_t bin_count;
  uint64_t bin_above;  // weight before it
  uint64_t found;      // a key
  uint32_t is_found;
  uint32_t is_last;  // the block that finishes the row
  uint64_t total, rest;
  int32_t tile, token;
  double log_sums[EFT_MAX_MODELS + 1];  // relative to the maxima, at temperature 1
  double maxima[EFT_MAX_MODELS + 1];
  double entropy;
};

template <int kThreadsOfBlock, bool kCluster>
struct Team {
  static constexpr int kThreads = kThreadsOfBlock;
  static constexpr bool kClusters = kCluster;
  RowWork* own;
  RowWork* lead;
  uint32_t rank, size;

  __device__ bool leads() const { return !kCluster || rank == 0; }
  __device__ void sync() const {
    if (kCluster) {
      cluster_sync();
    } else {
      __syncthreads();
    }
  }
};

template <class T>
__device__ __forceinline__ T smaller(T a, T b) {
  return a < b ? a : b;
}

// 64-bit additions, any order, as two of 32 bits: the low half says whether it carries.
__device__ __forceinline__ void add_halves(uint32_t* low, uint32_t* high, uint64_t x) {
  const uint32_t x_low = uint32_t(x);
  const uint32_t carry = x_low && atomicAdd(low, x_low) > ~x_low;
  const uint32_t x_high = uint32_t(x >> 32) + carry;
  if (x_high) atomicAdd(high, x_high);
}
__device__ __forceinline__ void add_mass(uint64_t* sum, uint64_t x) {
  uint32_t* halves = reinterpret_cast<uint32_t*>(sum);
  add_halves(halves, halves + 1, x);
}

// Sum of x over the threads before this one; `total` over all. The block together.
template <int kThreads>
__device__ __forceinline__ uint64_t scan_before(uint64_t x, uint64_t* partial, uint64_t& total) {
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  uint64_t sum = x;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const uint64_t other = __shfl_up_sync(0xffffffffu, sum, by);
    if (lane >= by) sum += other;
  }
  __syncthreads();  // an earlier scan may still be read
  if (lane == 31) partial[warp] = sum;
  __syncthreads();
  uint64_t before = sum - x;
  total = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) {
    const uint64_t share = partial[i];
    before += i < warp ? share : 0;
    total += share;
  }
  return before;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_TEAM_CUH_
