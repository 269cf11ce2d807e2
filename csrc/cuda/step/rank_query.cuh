// The token at which a running weight, the mass at the row's reference or plain counts, reaches a
// target in the order of the rank. Weights are summed into bins of the rank, exactly; the bin that
// holds the place is looked at again, until few tokens are left and these are ranked directly.
#ifndef EFT_CUDA_STEP_RANK_QUERY_CUH_
#define EFT_CUDA_STEP_RANK_QUERY_CUH_

#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

constexpr float kBinsPerOctave = 16;  // of the first round, which spans 64 powers of two

__device__ __forceinline__ Hunt hunt_for(uint64_t target, bool by_mass, float top,
                                         float reference) {
  return {0, ~uint64_t(0), target, top, reference, by_mass, true, 0};
}

__device__ __forceinline__ int linear_bin(float top, float t) {
  return int(fminf((top - t) * kBinsPerOctave, float(kBins - 1)));
}

__device__ __forceinline__ int bin_of(const Hunt& h, uint64_t key) {
  return h.linear ? linear_bin(h.top, key_t(key)) : int((key - h.low) >> h.shift);
}
__device__ __forceinline__ bool in_range(const Hunt& h, uint64_t key) {
  return key >= h.low && key <= h.high;
}
// The lowest t of keys up to this one.
__device__ __forceinline__ float lowest_of_key(uint64_t high) {
  return high < rank_key(kLowestT, kLastId) ? key_t(high) : kLowestT;
}
__device__ __forceinline__ uint64_t weight_of(const Hunt& h, uint64_t key) {
  return h.by_mass ? token_mass(key_t(key), h.reference) : 1;
}

// The first key whose linear bin is `bin` or later, by halving.
__device__ __forceinline__ uint64_t first_key_from(float top, int bin) {
  uint32_t low = uint32_t(rank_key(top, 0) >> 32), high = uint32_t(rank_key(kLowestT, 0) >> 32) + 1;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (linear_bin(top, key_t(uint64_t(middle) << 32)) >= bin) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return uint64_t(low) << 32;
}

// Narrows the range to one of its bins.
__device__ __forceinline__ void narrow(Hunt& h, int bin) {
  if (h.linear) {
    const uint64_t first = first_key_from(h.top, bin);
    const uint64_t next = bin + 1 < kBins ? first_key_from(h.top, bin + 1) : 0;  // 0 - 1: the last
    h.low = first > h.low ? first : h.low;
    h.high = smaller(h.high, next - 1);
    h.linear = false;
  } else {
    h.low += uint64_t(uint32_t(bin)) << h.shift;
    h.high = smaller(h.high, h.low + ((uint64_t(1) << h.shift) - 1));
  }
  const uint64_t span = h.high - h.low;
  const int bits = 64 - __clzll(static_cast<long long>(span | 1));
  h.shift = bits > 10 ? bits - 10 : 0;
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

// Leader's block: the first bin at which the running weight reaches h.left, into w.bin and the
// fields after it.
template <class Team>
__device__ __forceinline__ void find_bin(const Team& team, uint64_t left) {
  constexpr int kEach = kBins / Team::kThreads;
  RowWork& w = *team.own;
  const int first = int(thread_index()) * kEach;
  uint64_t own = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    own += uint64_t(w.bins.high[first + i]) << 32 | w.bins.low[first + i];
  }
  if (thread_index() == 0) w.bin = -1;
  uint64_t total;
  uint64_t above = scan_before<Team::kThreads>(own, w.partial, total);
  if (above < left && above + own >= left) {
    int bin = first;
    for (;; ++bin) {
      const uint64_t weight = uint64_t(w.bins.high[bin]) << 32 | w.bins.low[bin];
      if (above + weight >= left) break;
      above += weight;
    }
    w.bin = bin;
    w.bin_count = w.bins.count[bin];
    w.bin_above = above;
  }
  __syncthreads();
}

// Leader's block. The key at which the list's weight reaches h.left into w.found; w.is_found is 0
// if it does not. The list holds all of the row's tokens in the range.
template <class Team>
__device__ __forceinline__ void select_in_list(const Team& team, Hunt h) {
  RowWork& w = *team.own;
  const int count = int(w.list_count);
  for (;;) {
    clear_bins(team);
    __syncthreads();
    for (int i = thread_index(); i < count; i += Team::kThreads) {
      const uint64_t key = w.list[i];
      if (in_range(h, key)) add_to_bin(w.bins, bin_of(h, key), weight_of(h, key), 1);
    }
    if (thread_index() == 0) w.few_count = 0, w.is_found = 0;
    __syncthreads();
    find_bin(team, h.left);
    const int bin = w.bin;
    if (bin < 0) return;
    h.left -= w.bin_above;
    if (w.bin_count <= kFew) {
      for (int i = thread_index(); i < count; i += Team::kThreads) {
        const uint64_t key = w.list[i];
        if (!in_range(h, key) || bin_of(h, key) != bin) continue;
        const uint32_t place = atomicAdd(&w.few_count, 1u);
        w.few[place] = key;
        w.few_mass[place] = weight_of(h, key);
      }
      __syncthreads();
      const int few = int(w.few_count);
      for (int i = thread_index(); i < few; i += Team::kThreads) {
        uint64_t above = 0;
        for (int j = 0; j < few; ++j) above += w.few[j] < w.few[i] ? w.few_mass[j] : 0;
        if (above < h.left && above + w.few_mass[i] >= h.left) {
          w.found = w.few[i];
          w.is_found = 1;
        }
      }
      __syncthreads();
      return;
    }
    narrow(h, bin);
  }
}

// Adds this block's bins to the leader's, which stood cleared at the team's last barrier.
template <class Team>
__device__ __forceinline__ void merge_bins(const Team& team) {
  __syncthreads();
  if (team.leads()) return;
  for (int i = thread_index(); i < kBins; i += Team::kThreads) {
    const Bins& own = team.own->bins;
    if (own.count[i]) {
      add_to_bin(team.lead->bins, i, uint64_t(own.high[i]) << 32 | own.low[i], own.count[i]);
    }
  }
}

// A bound that as many group maxima reach as its bin and those before it hold: k groups whose
// maxima reach it hold k such tokens, so the k-th largest token is no lower.
__device__ __forceinline__ float bound_of_bin(float top, int bin) {
  return bin == kBins - 1 ? kLowestT : fmaxf(top - float(bin + 1) / kBinsPerOctave, kLowestT);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_RANK_QUERY_CUH_
