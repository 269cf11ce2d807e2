// RankQuery: the token at which a running weight reaches a target, in the order of the rank. This
// is top_k (every token weighs 1), top_p (its mass at the row's reference) and top_ids.cuh's list.
// Weights are summed exactly into 1024 bins of the rank; the bin with the answer is divided again,
// until at most 256 finalists are left, which are ranked against each other.
#ifndef EFT_CUDA_STEP_RANK_QUERY_CUH_
#define EFT_CUDA_STEP_RANK_QUERY_CUH_

#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

struct RankQuery {
  uint64_t low, high;  // the range of keys that holds it, both inside
  uint64_t target;     // weight to be reached within the range
  float max_t;         // the row's largest t
  float reference;     // A
  bool by_mass;        // weights are masses at the reference; else every token weighs 1
  bool linear;         // bins of 1/16 power of two below max_t; else of 2^shift keys each
  int shift;
};

constexpr float kBinsPerOctave = 16;  // of the first round, which spans 64 powers of two

__device__ __forceinline__ RankQuery count_query(uint64_t target, float max_t) {
  return {0, ~uint64_t(0), target, max_t, 0.0f, false, true, 0};
}

// Weighs the survivors so far, up to `last`. Rank 0 survives even where p is 0, as it does for a
// target of one unit of mass.
__device__ __forceinline__ RankQuery mass_query(uint64_t target, const RowMax& max,
                                                const Cutoff& last) {
  return {0, rank_key(last.t, last.id), target ? target : 1, max.t, max.reference, true, true, 0};
}

__device__ __forceinline__ int linear_bin(float max_t, float t) {
  return int(fminf((max_t - t) * kBinsPerOctave, float(kBins - 1)));
}

__device__ __forceinline__ int bin_of(const RankQuery& q, uint64_t key) {
  return q.linear ? linear_bin(q.max_t, key_t(key)) : int((key - q.low) >> q.shift);
}
__device__ __forceinline__ bool in_range(const RankQuery& q, uint64_t key) {
  return key >= q.low && key <= q.high;
}
__device__ __forceinline__ uint64_t weight_of(const RankQuery& q, uint64_t key) {
  return q.by_mass ? token_mass(key_t(key), q.reference) : 1;
}
// The lowest t of keys up to this one.
__device__ __forceinline__ float lowest_of_key(uint64_t high) {
  return high < rank_key(kLowestT, kLastId) ? key_t(high) : kLowestT;
}

// The first key whose linear bin is `bin` or later, by halving.
__device__ __forceinline__ uint64_t first_key_from(float max_t, int bin) {
  uint32_t low = uint32_t(rank_key(max_t, 0) >> 32),
           high = uint32_t(rank_key(kLowestT, 0) >> 32) + 1;
#pragma unroll 1
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (linear_bin(max_t, key_t(uint64_t(middle) << 32)) >= bin) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return uint64_t(low) << 32;
}

// Narrows the range to one of its bins.
__device__ __forceinline__ void narrow(RankQuery& q, int bin) {
  if (q.linear) {
    const uint64_t first = first_key_from(q.max_t, bin);
    const uint64_t next =
        bin + 1 < kBins ? first_key_from(q.max_t, bin + 1) : 0;  // 0 - 1 is the last key
    q.low = first > q.low ? first : q.low;
    q.high = smaller(q.high, next - 1);
    q.linear = false;
  } else {
    q.low += uint64_t(uint32_t(bin)) << q.shift;
    q.high = smaller(q.high, q.low + ((uint64_t(1) << q.shift) - 1));
  }
  const uint64_t span = q.high - q.low;
  const int bits = 64 - __clzll(static_cast<long long>(span | 1));
  q.shift = bits > 10 ? bits - 10 : 0;
}

__device__ __forceinline__ void add_to_bin(Bins& bins, int bin, uint64_t weight, uint32_t count) {
  atomicAdd(bins.count + bin, count);
  add_halves(bins.low + bin, bins.high + bin, weight);
}

// The bins of one thread, next to one another.
template <int kThreads>
struct OwnBins {
  static constexpr int kEach = kBins / kThreads;
  uint64_t weight[kEach];
  uint32_t count[kEach];

  // Reads the bins, and leaves them zero for the next query.
  __device__ __forceinline__ void take(Bins& bins) {
    const int first = int(thread_index()) * kEach;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      weight[i] = uint64_t(bins.high[first + i]) << 32 | bins.low[first + i];
      count[i] = bins.count[first + i];
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      bins.low[first + i] = bins.high[first + i] = bins.count[first + i] = 0;
    }
  }
  __device__ __forceinline__ void read(const uint32_t* counts) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      weight[i] = count[i] = counts[int(thread_index()) * kEach + i];
    }
  }
};

// The whole block: the first bin at which the running weight reaches the target, into w.bin, with
// bin_count and weight_above_bin.
template <int kThreads>
__device__ __forceinline__ void find_bin(const OwnBins<kThreads>& own, uint64_t target,
                                         RowWork& w) {
  uint64_t weight = 0, total;
#pragma unroll
  for (int i = 0; i < own.kEach; ++i) weight += own.weight[i];
  if (thread_index() == 0) w.bin = -1;
  uint64_t above = scan_before<kThreads>(weight, w.warp_partial, total);
  if (above < target && above + weight >= target) {
    bool found = false;
#pragma unroll
    for (int i = 0; i < own.kEach; ++i) {
      if (!found && above + own.weight[i] >= target) {
        found = true;
        w.bin = int(thread_index()) * own.kEach + i;
        w.bin_count = own.count[i];
        w.weight_above_bin = above;
      }
      above += own.weight[i];
    }
  }
  __syncthreads();
}

// The finalist at which their running weight reaches the target, into w.found_key.
template <class Team>
__device__ __forceinline__ void rank_finalists(const Team& team, uint64_t target) {
  RowWork& w = *team.own;
  const int count = int(w.num_finalists);
#pragma unroll 1
  for (int i = thread_index(); i < count; i += Team::kThreads) {
    const Finalist own = w.finalists[i];
    uint64_t above = 0;
#pragma unroll 4
    for (int j = 0; j < count; ++j) {
      const Finalist other = w.finalists[j];
      above += other.key < own.key ? other.weight : 0;
    }
    if (above < target && above + own.weight >= target) {
      w.found_key = own.key;
      w.is_found = 1;
    }
  }
}

// Zeroes what a weighing adds to, by the leader's block between two barriers.
template <class Team>
__device__ __forceinline__ void clear_survivors(const Team& team) {
#pragma unroll
  for (int i = thread_index(); i < kMaxTiles; i += Team::kThreads) team.own->survivor_mass[i] = 0;
  if (thread_index() == 0) team.own->num_kept = 0;
}

// The leader's block. The candidates hold all of the row's tokens in the query's range; false where
// they do not reach the target. Leaves survivor_mass and num_kept zero.
template <class Team>
__device__ __forceinline__ bool query_candidates(const Team& team, RankQuery q, uint64_t& found) {
  RowWork& w = *team.own;
  const int count = int(w.num_candidates);
#pragma unroll 1
  for (;;) {
#pragma unroll 1
    for (int i = thread_index(); i < count; i += Team::kThreads) {
      const uint64_t key = w.candidates[i];
      if (in_range(q, key)) add_to_bin(w.bins, bin_of(q, key), weight_of(q, key), 1);
    }
    __syncthreads();
    if (thread_index() == 0) w.num_finalists = w.is_found = 0;
    clear_survivors(team);
    OwnBins<Team::kThreads> own;
    own.take(w.bins);
    find_bin(own, q.target, w);
    const int bin = w.bin;
    if (bin < 0) return false;
    q.target -= w.weight_above_bin;
    if (w.bin_count <= kMaxFinalists) {
#pragma unroll 1
      for (int i = thread_index(); i < count; i += Team::kThreads) {
        const uint64_t key = w.candidates[i];
        if (!in_range(q, key) || bin_of(q, key) != bin) continue;
        w.finalists[atomicAdd(&w.num_finalists, 1u)] = {key, weight_of(q, key)};
      }
      __syncthreads();
      rank_finalists(team, q.target);
      __syncthreads();
      found = w.found_key;
      return w.is_found;
    }
    narrow(q, bin);
    __syncthreads();  // all have read the bin, which the next round replaces
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_RANK_QUERY_CUH_
