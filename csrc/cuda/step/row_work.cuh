// RowWork, the shared memory in which a row is finished. A team finishes a row: one block
// (streaming) or a cluster of blocks (resident). The first block leads; what concerns the whole row
// lies in its memory.
#ifndef EFT_CUDA_STEP_ROW_WORK_CUH_
#define EFT_CUDA_STEP_ROW_WORK_CUH_

#include "cuda/common/rank.cuh"
#include "cuda/common/row_inputs.cuh"

namespace eft {
namespace {

// The largest of a row: z, t = z * c, and A = floor(t).
struct RowMax {
  float z, t, reference;
  bool valid;  // no NaN, no +inf, something left
};

// A filter keeps a prefix of the rank, so one cutoff says what survives.
struct Survivors {
  Cutoff cutoff;
  bool limited;        // else all tokens survive, and tile_mass is theirs; survivor_mass is not set
  bool in_candidates;  // the candidates hold all survivors, and perhaps more
};

constexpr int kBins = 1024;
constexpr int kMaxCandidates = 2048;
constexpr int kMaxFinalists = 256;      // ranked against each other directly
constexpr int kMaxGroupsListed = 4096;  // at a time
constexpr int kMaxThreads = 512;        // of a block

constexpr int kStreamThreads = 256;
constexpr int kResidentThreads = 512;

// Weights by bins, 64 bits in two halves: shared memory adds 32 bits at a time.
struct Bins {
  uint32_t low[kBins], high[kBins], count[kBins];
};

struct Finalist {
  uint64_t key, weight;
};

struct alignas(16) RowWork {
  // These two lie in front for clear_row_work.
  Bins bins;  // zero between queries
  union {
    uint64_t survivor_mass[kMaxTiles];  // of the leader, by tiles; zero until they are weighed
    uint32_t group_counts[kBins];       // before: the groups' maxima by bins
  };
  uint64_t tile_mass[kMaxTiles];  // W_T
  float tile_max[kMaxTiles];      // z; -inf, with no mass, from num_tiles to padded_tiles
  union {
    uint64_t candidates[kMaxCandidates];  // of the leader: keys
    uint64_t token_weights[kTile];        // verification: a tile of the residual
  };
  union {
    Finalist finalists[kMaxFinalists];
    uint16_t groups[kMaxGroupsListed];  // to be read
  };
  uint64_t warp_partial[kMaxThreads / 32];
  RowOptions options;
  RowInputs inputs;
  // Here rather than in registers, which are short while tokens are at hand.
  int64_t row;
  int model;         // kModelNuclei
  uint32_t is_last;  // the block that finishes the row
  // Counters, zero when the row begins; of the leader but for num_groups.
  uint32_t num_groups, num_candidates, num_kept, num_in_tile;
  uint64_t candidates_mass;
  // The results of find_bin and of a query.
  uint32_t num_finalists, is_found;
  int32_t bin;  // with the answer, -1 if none has it
  uint32_t bin_count;
  uint64_t weight_above_bin;  // of the bins before it
  uint64_t found_key;
  uint64_t draw_bits;                   // of the row's draw
  int32_t token;                        // drawn
  double log_sums[EFT_MAX_MODELS + 1];  // relative to the maxima, at temperature 1
  double maxima[EFT_MAX_MODELS + 1];
  double entropy;
};

static_assert(sizeof(RowWork) <= 48 * 1024, "shared memory that need not be asked for");

// The threads that finish a row. `own` is the block's shared memory, `leader` the first block's.
template <int kThreadsOfBlock, bool kCluster>
struct Team {
  static constexpr int kThreads = kThreadsOfBlock;
  static constexpr bool kClusters = kCluster;
  RowWork* own;
  RowWork* leader;
  uint32_t rank, size;

  __device__ bool is_leader() const { return !kCluster || rank == 0; }
  __device__ void sync() const {
    if (kCluster) {
      cluster_sync();
    } else {
      __syncthreads();
    }
  }
};

// A streaming block, which is the team and its leader.
__device__ __forceinline__ Team<kStreamThreads, false> one_block_team(RowWork& w) {
  return {&w, &w, 0, 1};
}

// Zeroes the bins, survivor_mass and the counters, by the whole block. A barrier follows.
template <int kThreads>
__device__ __forceinline__ void clear_row_work(RowWork& w) {
  Bits128* const words = reinterpret_cast<Bits128*>(&w);
  constexpr int kCleared = (sizeof(Bins) + sizeof(w.survivor_mass)) / sizeof(Bits128);
#pragma unroll
  for (int i = 0; i < kCleared; i += kThreads) words[i + int(threadIdx.x)] = {};
  if (threadIdx.x == 0) {
    w.num_groups = w.num_candidates = w.num_kept = w.num_in_tile = 0;
    w.candidates_mass = 0;
  }
}

// The number of tiles up to which lanes read: they take four at a time.
__device__ __forceinline__ int padded_tiles(int num_tiles) { return (num_tiles + 3) & ~3; }

// Shared memory of a resident block: RowWork, group maxima [tiles, 32], z [tiles, 1024].
constexpr int64_t resident_bytes(int tiles_of_block) {
  return int64_t(sizeof(RowWork)) + int64_t(tiles_of_block) * (kGroups + kTile) * 4;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_ROW_WORK_CUH_
