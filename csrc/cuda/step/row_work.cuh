// RowWork, the shared memory in which a row is finished: the state of its filters (filters.cuh),
// the query and the pass they ask for next (rank_query.cuh, passes.cuh), and what the passes leave.
// A team finishes a row: one block (streaming) or a cluster of blocks (resident). The first block
// leads; what concerns the whole row lies in its memory.
#ifndef EFT_CUDA_STEP_ROW_WORK_CUH_
#define EFT_CUDA_STEP_ROW_WORK_CUH_

#include "cuda/common/rank.cuh"
#include "cuda/common/row_inputs.cuh"

namespace eft {
namespace {

// The token at which a running weight reaches `target`, in the order of the rank (rank_query.cuh).
struct RankQuery {
  uint64_t low, high;  // the range of keys that holds it, both inside
  uint64_t target;     // weight to be reached within the range
  float max_t;         // the row's largest t
  float reference;     // A
  bool by_mass;        // weights are masses at the reference; else every token weighs 1
  bool linear;         // bins of 1/16 power of two below max_t; else of 2^shift keys each
  int shift;
};

// The largest of a row: z, t = z * c, and A = floor(t).
struct RowMax {
  float z, t, reference;
  bool valid;  // no NaN, no +inf, something left
};

// The next pass. Down to kPadTopIds the leader's block runs it alone; from kBinGroups on, the team.
enum PassKind {
  kNoPass,           // the row is done
  kQueryCandidates,  // the query, among the candidates → found_key, is_found
  kFindBin,          // the query's bin → bin, bin_count, weight_above_bin
  kTotalMass,        // the survivors' mass → total
  kWeighCandidates,  // candidates within the cutoff → tile_mass, num_kept
  kDrawToken,        // the draw → the row's results
  kWriteTopIds,      // the candidates, ranked → top_ids from `num_written` on
  kPadTopIds,        // fewer tokens than num_top → -1
  kBinGroups,        // the groups' maxima → bins
  kGather,           // keys from `low` to `high` → candidates; num_candidates says if they fit
  kBinTokens,        // weights of the query's range → bins
  kWeighTokens,      // tokens within the cutoff → tile_mass, num_kept
};

struct Pass {
  PassKind kind;
  uint64_t low, high;  // kGather
  int max_groups;      // kGather: with more groups in a block the candidates would not fit
  RankQuery query;     // kQueryCandidates, kFindBin, kBinGroups, kBinTokens
  Cutoff cutoff;       // kWeighCandidates, kWeighTokens
  float c;             // t = z * c
};

// A filter keeps a prefix of the rank, so one cutoff says what survives.
struct Survivors {
  Cutoff cutoff;
  bool in_candidates;  // the candidates hold all survivors, and perhaps more
};

// In transformers' order, each filter over the survivors of the one before.
enum FilterPhase {
  kStart = 0,
  kTopK,
  kWeighTopK,
  kTopP,
  kMinP,
  kWeighSurvivors,
  kDraw,
  kTopIds,
  kDone,
};

// The state of the current phase.
enum PhaseState {
  kNextPhase,          // set up the next phase
  kAfterTotal,         // kTopP: the survivors are weighed and summed
  kGuessBound,         // gather above a bound that the answer is likely to reach
  kAfterBinGroups,     // the groups' maxima are in bins
  kAfterFindBound,     // the bin is known that enough of them reach
  kAfterGather,        // the tokens above the bound are candidates, if they fit
  kQuery,              // the candidates hold the answer, or all of the row
  kAfterQuery,         // the candidates are queried
  kBinRow,             // the candidates do not hold it: the whole row goes into bins
  kAfterBinTokens,     // the row is in bins
  kAfterFindBin,       // the bin with the answer is known
  kAfterGatherTopK,    // kTopK: the survivors are candidates, if they fit
  kAfterGatherTopIds,  // kTopIds: the next of the rank are candidates
  kAfterWrite,         // kTopIds: they are written
};

struct FilterState {
  FilterPhase phase;
  PhaseState state;
  Survivors survivors;
  bool candidates_are_row;    // the candidates are all of the row
  bool candidates_are_range;  // the candidates are the query's range and no more
  float top_p_depth;          // kTopP: the next bound, in powers of two below max_t
  int num_written;            // kTopIds
  uint64_t next_key;          // kTopIds: the first key that is not written
  RankQuery query;
  Pass pass;
};

constexpr int kBins = 1024;
constexpr int kMaxCandidates = 2048;
constexpr int kMaxFinalists = 256;      // ranked against each other directly
constexpr int kMaxGroupsToRead = 4096;  // at a time
constexpr int kMaxThreads = 512;        // of a block

constexpr int kStreamThreads = 256;
constexpr int kResidentThreads = 512;

// Weights by bins, 64 bits in two halves: shared memory adds 32 bits at a time.
struct Bins {
  uint32_t low[kBins], high[kBins], count[kBins];
};

struct alignas(16) RowWork {
  RowOptions options;
  RowInputs inputs;
  FilterState filter;
  RowMax max;
  // Here rather than in registers, which are short while tokens are at hand.
  int64_t row;
  int model;                            // kModelNuclei
  const float* group_maxima;            // streaming: in the workspace, [num_tiles, 32]
  const float* stats;                   // streaming: [num_tiles, kMaxStats]
  uint64_t tile_mass[kMaxTiles];        // of the leader: W_T, then the survivors'
  uint64_t candidates[kMaxCandidates];  // of the leader: keys
  union {
    Bins bins;
    uint64_t token_masses[kTile];  // of the drawn tile
  };
  uint64_t finalists[kMaxFinalists], finalist_weight[kMaxFinalists];
  uint64_t warp_partial[kMaxThreads / 32];
  float tile_max[kMaxTiles];  // of the leader, z
  union {
    uint16_t groups_to_read[kMaxGroupsToRead];
    float tile_z[kTile];  // of the drawn tile
  };
  uint32_t num_groups_to_read;
  // The results of passes, in the leader's memory.
  uint32_t num_candidates, num_finalists, num_kept, first_max_index;
  int32_t bin;  // with the answer, -1 if none has it
  uint32_t bin_count;
  uint64_t weight_above_bin;  // of the bins before it
  uint64_t found_key;
  uint32_t is_found;
  uint32_t is_last;      // the block that finishes the row
  uint64_t total;        // S, the survivors' mass
  uint64_t draw_offset;  // of the draw within the masses of `tile`
  int32_t tile, token;
  double log_sums[EFT_MAX_MODELS + 1];  // relative to the maxima, at temperature 1
  double maxima[EFT_MAX_MODELS + 1];
  double entropy;
};

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

// Shared memory of a resident block: RowWork, group maxima [tiles, 32], z [tiles, 1024].
constexpr int64_t resident_bytes(int tiles_of_block) {
  return int64_t(sizeof(RowWork)) + int64_t(tiles_of_block) * (kGroups + kTile) * 4;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_ROW_WORK_CUH_
