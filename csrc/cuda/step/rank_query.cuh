// RankQuery: the token at which a running weight reaches a target, in the order of the rank. This
// is top_k (every token weighs 1), top_p (its mass at the row's reference) and the list of top ids.
// Weights are summed exactly into 1024 bins of the rank; the bin with the answer is divided again,
// until at most 256 finalists are left, which are ranked against each other.
//
// kFindBin          bins, target                  → bin, bin_count, weight_above_bin
// kQueryCandidates  candidates, query             → found_key, is_found
#ifndef EFT_CUDA_STEP_RANK_QUERY_CUH_
#define EFT_CUDA_STEP_RANK_QUERY_CUH_

#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

constexpr float kBinsPerOctave = 16;  // of the first round, which spans 64 powers of two

__device__ __forceinline__ RankQuery make_query(uint64_t target, bool by_mass, float max_t,
                                                float reference) {
  return {0, ~uint64_t(0), target, max_t, reference, by_mass, true, 0};
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
// The lowest t of keys up to this one.
__device__ __forceinline__ float lowest_of_key(uint64_t high) {
  return high < rank_key(kLowestT, kLastId) ? key_t(high) : kLowestT;
}
__device__ __forceinline__ uint64_t weight_of(const RankQuery& q, uint64_t key) {
  return q.by_mass ? token_mass(key_t(key), q.reference) : 1;
}

// The first key whose linear bin is `bin` or later, by halving.
__device__ __forceinline__ uint64_t first_key_from(float max_t, int bin) {
  uint32_t low = uint32_t(rank_key(max_t, 0) >> 32),
           high = uint32_t(rank_key(kLowestT, 0) >> 32) + 1;
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

template <class Team>
__device__ __forceinline__ void clear_bins(const Team& team) {
  for (int i = thread_index(); i < kBins; i += Team::kThreads) {
    team.own->bins.low[i] = team.own->bins.high[i] = team.own->bins.count[i] = 0;
  }
}

__device__ __forceinline__ void add_to_bin(Bins& bins, int bin, uint64_t weight, uint32_t count) {
  atomicAdd(bins.count + bin, count);
  add_halves(bins.low + bin, bins.high + bin, weight);
}

// kFindBin, by the leader's block: the first bin at which the running weight reaches the target.
template <class Team>
__device__ __forceinline__ void find_bin(const Team& team, uint64_t target) {
  constexpr int kEach = kBins / Team::kThreads;
  RowWork& w = *team.own;
  const int first = int(thread_index()) * kEach;
  uint64_t weight = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    weight += uint64_t(w.bins.high[first + i]) << 32 | w.bins.low[first + i];
  }
  if (thread_index() == 0) w.bin = -1;
  uint64_t total;
  uint64_t above = scan_before<Team::kThreads>(weight, w.warp_partial, total);
  if (above < target && above + weight >= target) {
    int bin = first;
    for (;; ++bin) {
      const uint64_t of_bin = uint64_t(w.bins.high[bin]) << 32 | w.bins.low[bin];
      if (above + of_bin >= target) break;
      above += of_bin;
    }
    w.bin = bin;
    w.bin_count = w.bins.count[bin];
    w.weight_above_bin = above;
  }
  __syncthreads();
}

// kQueryCandidates, by the leader's block; is_found is 0 where the target is not reached. The
// candidates hold all of the row's tokens in the query's range.
template <class Team>
__device__ __forceinline__ void query_candidates(const Team& team, RankQuery q) {
  RowWork& w = *team.own;
  const int count = int(w.num_candidates);
  for (;;) {
    clear_bins(team);
    __syncthreads();
    for (int i = thread_index(); i < count; i += Team::kThreads) {
      const uint64_t key = w.candidates[i];
      if (in_range(q, key)) add_to_bin(w.bins, bin_of(q, key), weight_of(q, key), 1);
    }
    if (thread_index() == 0) w.num_finalists = 0, w.is_found = 0;
    __syncthreads();
    find_bin(team, q.target);
    const int bin = w.bin;
    if (bin < 0) return;
    q.target -= w.weight_above_bin;
    if (w.bin_count <= kMaxFinalists) {
      for (int i = thread_index(); i < count; i += Team::kThreads) {
        const uint64_t key = w.candidates[i];
        if (!in_range(q, key) || bin_of(q, key) != bin) continue;
        const uint32_t slot = atomicAdd(&w.num_finalists, 1u);
        w.finalists[slot] = key;
        w.finalist_weight[slot] = weight_of(q, key);
      }
      __syncthreads();
      const int num_finalists = int(w.num_finalists);
      for (int i = thread_index(); i < num_finalists; i += Team::kThreads) {
        uint64_t above = 0;
        for (int j = 0; j < num_finalists; ++j)
          above += w.finalists[j] < w.finalists[i] ? w.finalist_weight[j] : 0;
        if (above < q.target && above + w.finalist_weight[i] >= q.target) {
          w.found_key = w.finalists[i];
          w.is_found = 1;
        }
      }
      __syncthreads();
      return;
    }
    narrow(q, bin);
  }
}

// Adds this block's bins to the leader's, which were cleared before the team's last barrier.
template <class Team>
__device__ __forceinline__ void merge_bins(const Team& team) {
  __syncthreads();
  if (team.is_leader()) return;
  for (int i = thread_index(); i < kBins; i += Team::kThreads) {
    const Bins& own = team.own->bins;
    if (own.count[i]) {
      add_to_bin(team.leader->bins, i, uint64_t(own.high[i]) << 32 | own.low[i], own.count[i]);
    }
  }
}

// The lower end of a bin of group maxima. k groups whose maxima reach it hold k such tokens, so the
// k-th largest token is no lower.
__device__ __forceinline__ float bound_of_bin(float max_t, int bin) {
  return bin == kBins - 1 ? kLowestT : fmaxf(max_t - float(bin + 1) / kBinsPerOctave, kLowestT);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_RANK_QUERY_CUH_
