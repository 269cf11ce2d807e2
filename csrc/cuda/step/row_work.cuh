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
struct RankQuery {
  uint64_t low, high;  // keys, both inside
  uint64_t target;     // weight to be reached within
  float max_t;         // the row's largest t
  float reference;     // A
  bool by_mass;
  bool linear;  // bins of 1/16 power of two below the top; else of equal spans of keys
  int shift;
};

// The largest of a row: z, t = z * c, and A = floor(t).
struct RowMax {
  float z, t, reference;
  bool valid;  // no NaN, no +inf, something left
};

// What is done next: first what the leader's block does alone, then what takes the team.
enum PassKind {
  kNoPass,           // the row is done
  kQueryCandidates,  // the hunt's place in the list
  kFindBin,          // the hunt's place in the bins
  kTotalMass,        // the survivors' mass
  kWeighCandidates,  // masses of the listed within the limit
  kDrawToken,        // the draw
  kWriteTopIds,      // the list, in order, from place `done` of the rank on
  kPadTopIds,        // what is left of a rank too short
  kBinGroups,        // the groups' maxima into the bins
  kGather,           // keys from `low` to `high` into the leader's list; num_candidates above
                     // kMaxCandidates: too many
  kBinTokens,        // weights of the hunt's range into the bins
  kWeighTokens,      // masses within the limit into the leader's tile_mass, their number into
                     // `num_kept`
};

struct Pass {
  PassKind kind;
  uint64_t low, high;  // kGather
  int max_groups;      // kGather: groups of a block above which the list is taken for too short
  RankQuery query;     // kQueryCandidates, kFindBin, kBinGroups, kBinTokens
  Cutoff cutoff;       // kWeighCandidates, kWeighTokens
  float c;             // t = z * c
};

// A filter keeps a prefix of the rank, so what survives is one limit; `listed` where the leader's
// list holds all of the survivors (and perhaps more).
struct Survivors {
  Cutoff cutoff;
  bool in_candidates;
};

// In transformers' order, each over the survivors of the one before.
enum Phase { kStart = 0, kTopK, kWeighTopK, kTopP, kMinP, kWeighSurvivors, kDraw, kTopIds, kDone };

enum State {
  kNextPhase,          // to the next goal
  kAfterTotal,         // top_p: after the survivors have been slot_mass and summed
  kGuessBound,         // a bound that the place looked for is likely to be above
  kAfterBinGroups,     // after the groups' maxima have been put into bins,
  kAfterFindBound,     // and the bin been found that enough of them reach
  kAfterGather,        // after a gather above that bound
  kQuery,              // the list holds the place, or all there is
  kAfterQuery,         // after the hunt in it
  kBinRow,             // the list does not
  kAfterBinTokens,     // after a pass into bins,
  kAfterFindBin,       // and the place been found in them
  kAfterGatherTopK,    // after a gather of top_k's survivors
  kAfterGatherTopIds,  // after a gather of the next of the rank
  kAfterWrite,         // after they are written
};

struct FilterState {
  Phase phase;
  State state;
  Survivors survivors;
  bool candidates_are_row;    // the list holds all of the row
  bool candidates_are_range;  // the list holds just the hunt's range
  float top_p_depth;          // of top_p's next guess, in powers of two below the maximum
  int num_written;            // kTopIds: so many are written
  uint64_t next_key;          // kTopIds: the rest of the rank from this key on
  RankQuery query;
  Pass pass;
};

constexpr int kBins = 1024;
constexpr int kMaxCandidates = 2048;    // candidates that a row's list holds
constexpr int kMaxFinalists = 256;      // ranked against each other directly
constexpr int kMaxGroupsToRead = 4096;  // groups visited at a time
constexpr int kMaxThreads = 512;        // of a block

constexpr int kStreamThreads = 256;
constexpr int kResidentThreads = 512;

// Weights by bins, 64 bits in two halves: shared memory adds 32 bits at a time.
struct Bins {
  uint32_t low[kBins], high[kBins], count[kBins];
};

struct alignas(16) RowWork {
  RowOptions options;
  Mixer mixer;
  FilterState filter;
  RowMax max;
  // Of this row; here rather than in registers, which are short while tokens are at hand.
  int64_t row;
  int model;                            // kModelNuclei
  const float* group_maxima;            // streaming: in the workspace, [num_tiles, 32]
  const float* stats;                   // streaming: [num_tiles, kMaxStats]
  uint64_t tile_mass[kMaxTiles];        // of the leader: W_T, then the survivors'
  uint64_t candidates[kMaxCandidates];  // of the leader: candidates' keys
  union {
    Bins bins;
    uint64_t token_masses[kTile];  // of the drawn tile
  };
  uint64_t finalists[kMaxFinalists], finalist_mass[kMaxFinalists];
  uint64_t warp_partial[kMaxThreads / 32];
  float tile_max[kMaxTiles];  // of the leader, z
  union {
    uint16_t groups_to_read[kMaxGroupsToRead];
    float tile_z[kTile];  // of the drawn tile
  };
  uint32_t num_groups_to_read;
  // Of the leader: what the team has found.
  uint32_t num_candidates, num_finalists, num_kept, first_max;
  int32_t bin;  // that holds the place looked for, -1 if none does
  uint32_t bin_count;
  uint64_t weight_above_bin;  // weight before it
  uint64_t found_key;         // a key
  uint32_t is_found;
  uint32_t is_last;  // the block that finishes the row
  uint64_t total, draw_offset;
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

// Shared memory of a block: RowWork, group maxima [tiles, 32], z [tiles, 1024].
constexpr int64_t resident_bytes(int tiles_of_block) {
  return int64_t(sizeof(RowWork)) + int64_t(tiles_of_block) * (kGroups + kTile) * 4;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_ROW_WORK_CUH_
