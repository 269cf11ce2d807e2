// The types of a row's search: what is looked for, what survives, what the next pass is to do.
#ifndef EFT_CUDA_STEP_STATE_CUH_
#define EFT_CUDA_STEP_STATE_CUH_

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

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_STATE_CUH_
