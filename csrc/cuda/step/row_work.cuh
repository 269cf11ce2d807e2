// What a row's finish works on: the query, pass and filter state that its passes hand on, and the
// shared memory of the threads that finish a row, one block or a cluster of them. The first block
// leads: what concerns the whole row lies in its memory.
#ifndef EFT_CUDA_STEP_ROW_WORK_CUH_
#define EFT_CUDA_STEP_ROW_WORK_CUH_

#include "cuda/common/mixer.cuh"
#include "cuda/common/rank.cuh"

namespace eft {
namespace {

// A range of the rank that holds what is looked for, and how it is divided into bins.
struct Hunt {
  uint64_t low, high;  // keys, both inside
  uint64_t left;       // weight to be reached within
  float top;           // the row's largest t
  float reference;     // A
  bool by_mass;
  bool linear;  // bins of 1/16 power of two below the top; else of equal spans of keys
  int shift;
};

// The largest of a row: z, t = z * c, and A = floor(t).
struct RowTop {
  float z, t, reference;
  bool valid;  // no NaN, no +inf, something left
};

// What is done next: first what the leader's block does alone, then what takes the team.
enum Pass {
  kNoPass,     // the row is done
  kSelect,     // the hunt's place in the list
  kFindBin,    // the hunt's place in the bins
  kTotal,      // the survivors' mass
  kWeighList,  // masses of the listed within the limit
  kToken,      // the draw
  kWrite,      // the list, in order, from place `done` of the rank on
  kFill,       // what is left of a rank too short
  kBound,      // the groups' maxima into the bins
  kGather,     // keys from `low` to `high` into the leader's list; list_count above kList: too many
  kBin,        // weights of the hunt's range into the bins
  kWeigh,      // masses within the limit into the leader's tile_mass, their number into `num_kept`
};

struct Visit {
  Pass pass;
  uint64_t low, high;  // kGather
  int most;            // kGather: groups of a block above which the list is taken for too short
  Hunt hunt;           // kSelect, kFindBin, kBound, kBin
  Limit limit;         // kWeighList, kWeigh
  float c;             // t = z * c
};

// A filter keeps a prefix of the rank, so what survives is one limit; `listed` where the leader's
// list holds all of the survivors (and perhaps more).
struct Survivors {
  Limit limit;
  bool listed;
};

// In transformers' order, each over the survivors of the one before.
enum Goal { kStart = 0, kTopK, kWeighTopK, kTopP, kMinP, kWeighAll, kDraw, kTopIds, kDone };

enum State {
  kNext,      // to the next goal
  kTotalled,  // top_p: after the survivors have been weighed and summed
  kEstimate,  // a bound that the place looked for is likely to be above
  kBounded,   // after the groups' maxima have been put into bins,
  kReached,   // and the bin been found that enough of them reach
  kGathered,  // after a gather above that bound
  kInList,    // the list holds the place, or all there is
  kSelected,  // after the hunt in it
  kInRow,     // the list does not
  kBinned,    // after a pass into bins,
  kPlaced,    // and the place been found in them
  kListTopK,  // after a gather of top_k's survivors
  kBatch,     // after a gather of the next of the rank
  kWritten,   // after they are written
};

struct Search {
  Goal goal;
  State state;
  Survivors survivors;
  bool complete;   // the list holds all of the row
  bool ranged;     // the list holds just the hunt's range
  float depth;     // of top_p's next guess, in powers of two below the maximum
  int done;        // kTopIds: so many are written
  uint64_t first;  // kTopIds: the rest of the rank from this key on
  Hunt hunt;
  Visit visit;
};

constexpr int kBins = 1024;
constexpr int kList = 2048;       // candidates that a row's list holds
constexpr int kFew = 256;         // ranked against each other directly
constexpr int kVisited = 4096;    // groups visited at a time
constexpr int kMaxThreads = 512;  // of a block

constexpr int kStreamThreads = 256;
constexpr int kResidentThreads = 512;

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

// Shared memory of a block: RowWork, group maxima [tiles, 32], z [tiles, 1024].
constexpr int64_t resident_bytes(int tiles_of_block) {
  return int64_t(sizeof(RowWork)) + int64_t(tiles_of_block) * (kGroups + kTile) * 4;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_ROW_WORK_CUH_
