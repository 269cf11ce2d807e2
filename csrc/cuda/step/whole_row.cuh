// The rare way through a row's filters, for rows whose candidates do not fit: flat ones, k above
// 2048, a p that a deep tail must fill. Each reading goes over all tokens of the row that may
// matter: bins of the rank until the rest fits into the candidates' list, then the cutoff's
// weights. Keys are unique, so this ends, whatever the ties.
#ifndef EFT_CUDA_STEP_WHOLE_ROW_CUH_
#define EFT_CUDA_STEP_WHOLE_ROW_CUH_

#include "cuda/step/candidates.cuh"

namespace eft {
namespace {

// Moves this block's bins to the leader's.
template <class Team>
__device__ __forceinline__ void merge_bins(const Team& team) {
  if (!Team::kClusters || team.is_leader()) return;
  __syncthreads();
  OwnBins<Team::kThreads> own;
  own.take(team.own->bins);
#pragma unroll
  for (int i = 0; i < own.kEach; ++i) {
    if (!own.count[i]) continue;
    const int bin = int(thread_index()) * own.kEach + i;
    add_to_bin(team.leader->bins, bin, own.weight[i], own.count[i]);
  }
}

// The tokens of the query's range, into bins.
template <class Team, class Source>
__device__ __forceinline__ void bin_row(const Team& team, const Source& source, const RankQuery& q,
                                        float c) {
  // A token 41 powers of two below the reference has no mass.
  const float deepest = q.by_mass ? q.max_t - 42.0f : kLowestT;
  visit_all(team, source, c, fmaxf(deepest, lowest_of_key(q.high)), [&](int id, const float* z) {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const float t = z[i] * c;
      const uint64_t key = rank_key(t, uint32_t(id + i));
      if (!(t > -INFINITY) || !in_range(q, key)) continue;
      add_to_bin(team.own->bins, bin_of(q, key), weight_of(q, key), 1);
    }
  });
  merge_bins(team);
  team.sync();
}

// The keys from `low` to `high`, which fit, become candidates. num_candidates is 0.
template <class Team, class Source>
__device__ __forceinline__ void gather_range(const Team& team, const Source& source, uint64_t low,
                                             uint64_t high, float c) {
  visit_all(team, source, c, lowest_of_key(high), [&](int id, const float* z) {
    uint32_t inside = 0;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const float t = z[i] * c;
      const uint64_t key = rank_key(t, uint32_t(id + i));
      inside |= uint32_t(t > -INFINITY && key >= low && key <= high) << i;
    }
    append_candidates(team, id, z, c, inside, [](float) {});
  });
  team.sync();
}

// The leader's block finds the bin with the answer, and zeroes what a gathering and a weighing add
// to.
template <class Team>
__device__ __forceinline__ void find_answer_bin(const Team& team, uint64_t target) {
  RowWork& w = *team.own;
  clear_survivors(team);
  if (thread_index() == 0) w.num_candidates = 0;
  OwnBins<Team::kThreads> own;
  own.take(w.bins);
  find_bin(own, target, w);
}

// The team. Answers a query over the whole row; false where the target is not reached.
template <class Team, class Source>
__device__ __forceinline__ bool query_row(const Team& team, const Source& source, RankQuery q,
                                          float c, uint64_t& found) {
  const RowWork& leader = *team.leader;
  uint32_t count;
#pragma unroll 1
  do {
    bin_row(team, source, q, c);
    if (team.is_leader()) find_answer_bin(team, q.target);
    team.sync();
    const int bin = leader.bin;
    if (bin < 0) return false;
    q.target -= leader.weight_above_bin;
    count = leader.bin_count;
    narrow(q, bin);
  } while (count > kMaxCandidates);
  gather_range(team, source, q.low, q.high, c);
  if (team.is_leader()) query_candidates(team, q, found);
  team.sync();
  found = leader.found_key;
  return true;
}

// The team: the row's tokens within the cutoff, into the leader's survivor_mass and num_kept, which
// are zero when the row begins, and after every query.
template <class Team, class Source>
__device__ __forceinline__ void weigh_row(const Team& team, const Source& source,
                                          const Cutoff& cutoff, float c) {
  RowWork& leader = *team.leader;
  visit_all(team, source, c, cutoff.t, [&](int id, const float* z) {
    const int tile = id / kTile;
    const float a = floorf(team.own->tile_max[tile] * c);
    uint64_t sum = 0;
    uint32_t count = 0;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const float t = z[i] * c;
      const bool kept = keeps(cutoff, t, uint32_t(id + i));
      sum += kept ? token_mass(t, a) : 0;
      count += kept;
    }
    if (!count) return;
    add_mass(leader.survivor_mass + tile, sum);
    atomicAdd(&leader.num_kept, count);
  });
  team.sync();
}

// The team: the filters in transformers' order, as filter_candidates has them. `weighs`: the
// survivors' masses are wanted.
template <class Team, class Source>
__device__ __forceinline__ Cutoff filter_row(const Team& team, const Source& source,
                                             const Filters& on, const RowMax& max, uint64_t total,
                                             bool weighs) {
  const RowOptions& o = team.own->options;
  Cutoff cutoff = all_survive();
#pragma unroll 1  // one copy of each reading
  for (int i = 0; i < 2; ++i) {
    const bool by_mass = i == 1;  // top_p, after top_k
    if (by_mass ? on.top_p : on.top_k) {
      const RankQuery q = by_mass ? mass_query(mass_target(o.top_p, total), max, cutoff)
                                  : count_query(uint64_t(o.top_k), max.t);
      uint64_t key;
      if (query_row(team, source, q, o.scale, key)) {
        cutoff = by_mass ? cutoff_at(key) : cutoff_with_ties(key);
      }
    }
    if (by_mass && on.min_p) cutoff = stricter(cutoff, {min_p_bound(max, o), kLastId});
    if (by_mass ? weighs : on.top_k && on.top_p) {
      weigh_row(team, source, cutoff, o.scale);
      total = total_mass(*team.own, team.leader->survivor_mass, source.num_tiles, o.scale,
                         max.reference);
    }
  }
  return cutoff;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_WHOLE_ROW_CUH_
