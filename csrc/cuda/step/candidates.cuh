// The usual way through a row's filters: one reading of the few groups that reach a bound. Their
// tokens above it become candidates, and the filters look at those alone.
//
//   bound → list groups → gather → [top_k] → [top_p] → [min_p] → weigh survivors
//
// Nothing depends on the bound but time: where the candidates do not fit, or do not hold the
// cutoff, the row takes the way of whole_row.cuh.
#ifndef EFT_CUDA_STEP_CANDIDATES_CUH_
#define EFT_CUDA_STEP_CANDIDATES_CUH_

#include "cuda/step/filters.cuh"
#include "cuda/step/groups.cuh"
#include "cuda/step/rank_query.cuh"
#include "cuda/step/tile_sums.cuh"

namespace eft {
namespace {

// top_p's candidates: this many powers of two below the maximum.
constexpr float kTopPDepth = 12.0f;

// Appends the chosen ones of 8 tokens, bit i for token id + i, and calls `visit(t)` for each. Past
// kMaxCandidates they are only counted.
template <class Team, class Visit>
__device__ __forceinline__ void append_candidates(const Team& team, int id, const float* z, float c,
                                                  uint32_t chosen, const Visit& visit) {
  if (!chosen) return;
  uint32_t slot = atomicAdd(&team.leader->num_candidates, uint32_t(__popc(chosen)));
#pragma unroll 1
  for (; chosen; chosen &= chosen - 1, ++slot) {
    const int i = __ffs(int(chosen)) - 1;
    const float t = token_of_piece(z, i) * c;
    if (slot < kMaxCandidates) team.leader->candidates[slot] = rank_key(t, uint32_t(id + i));
    visit(t);
  }
}

// Adds this block's counts to the leader's.
template <class Team>
__device__ __forceinline__ void merge_counts(const Team& team) {
  if (!Team::kClusters || team.is_leader()) return;
  __syncthreads();
#pragma unroll 1
  for (int i = thread_index(); i < kBins; i += Team::kThreads) {
    const uint32_t own = team.own->group_counts[i];
    if (own) atomicAdd(team.leader->group_counts + i, own);
  }
}

// Bins of the groups' maxima, in z, so that no temperature spreads them: 512 of 1/256 below the
// row's, for flat rows, then 512 of 1/4, for wide ones.
__device__ __forceinline__ int group_bin(float below_max) {
  if (below_max < 2.0f) return int(below_max * 256.0f);
  return int(fminf(below_max * 4.0f + 504.0f, float(kBins - 1)));
}
// All maxima of a bin, and of those before it, are less than this below the row's.
__device__ __forceinline__ float end_of_group_bin(int bin) {
  return bin < 512 ? float(bin + 1) / 256.0f : float(bin - 503) / 4.0f;
}

// The team. A bound that k tokens of the row reach, since the maxima of k groups do: the k-th
// largest token is no lower. False where fewer than k groups hold a token.
template <class Team, class Source>
__device__ __forceinline__ bool bound_of_top_k(const Team& team, const Source& source,
                                               GroupMaxima<Team::kThreads>& maxima, float max_z,
                                               float c, uint64_t k, float& bound) {
  RowWork& w = *team.own;
#pragma unroll 1
  for (int part = 0; part * maxima.kOfPart < source.num_groups(); ++part) {
    maxima.load(source, part);
#pragma unroll
    for (int i = 0; i < kMaximaHeld; ++i) {
      const float z = maxima.z[i];
      if (z > -INFINITY) atomicAdd(w.group_counts + group_bin(max_z - z), 1u);
    }
  }
  merge_counts(team);
  team.sync();
  OwnBins<Team::kThreads> counts;
  counts.read(team.leader->group_counts);
  find_bin(counts, k, w);
  const int bin = w.bin;
  if (bin < 0) return false;
  bound = bin == kBins - 1 ? kLowestT : fmaxf((max_z - end_of_group_bin(bin)) * c, kLowestT);
  return true;
}

// Gathers the tokens that reach `at_least`. True if they fit, and their mass is `mass` or more.
template <class Team, class Source>
__device__ __forceinline__ bool gather_above(const Team& team, const Source& source,
                                             GroupMaxima<Team::kThreads>& maxima, float at_least,
                                             float c, uint64_t mass, float reference) {
  RowWork& w = *team.own;
#pragma unroll 1
  for (int part = 0; part * maxima.kOfPart < source.num_groups(); ++part) {
    maxima.load(source, part);
    list_part(maxima, w, c, at_least);
  }
  __syncthreads();
  if (w.num_groups > kMaxCandidates) {  // each of them holds a candidate
    if (thread_index() == 0) atomicAdd(&team.leader->num_candidates, uint32_t(kMaxCandidates) + 1);
  } else {
    uint64_t sum = 0;
    visit_listed<Source::kInFlight>(team, source, [&](int id, const float* z) {
      uint32_t reach = 0;
#pragma unroll
      for (int i = 0; i < kPiece; ++i) reach |= uint32_t(z[i] * c >= at_least) << i;
      append_candidates(team, id, z, c, reach,
                        [&](float t) { sum += mass ? token_mass(t, reference) : 0; });
    });
    sum = warp_add(sum);
    if (sum && thread_index() % 32 == 0) add_mass(&team.leader->candidates_mass, sum);
  }
  team.sync();
  return team.leader->num_candidates <= kMaxCandidates && team.leader->candidates_mass >= mass;
}

// The team. Gathers candidates that hold the row's cutoff; false where they may not. `total` is the
// row's mass.
template <class Team, class Source>
__device__ __forceinline__ bool gather_candidates(const Team& team, const Source& source,
                                                  GroupMaxima<Team::kThreads>& maxima,
                                                  const Filters& on, const RowMax& max,
                                                  int64_t vocab_size, uint64_t total) {
  const RowOptions& o = team.own->options;
  float at_least = kLowestT;
  uint64_t mass = 0;
  if (vocab_size <= kMaxCandidates) {
    // All of the row.
  } else if (on.top_k) {
    if (o.top_k > kMaxCandidates) return false;
    if (!bound_of_top_k(team, source, maxima, max.z, o.scale, uint64_t(o.top_k), at_least)) {
      return false;
    }
  } else if (on.top_p) {
    at_least = fmaxf(max.t - kTopPDepth, kLowestT);
    mass = mass_target(o.top_p, total);
    if (on.min_p && min_p_bound(max, o) >= at_least) {
      at_least = min_p_bound(max, o);  // what lies below min_p's bound does not survive
      mass = 0;
    }
  } else if (on.min_p) {
    at_least = min_p_bound(max, o);
  } else {
    return false;
  }
  return gather_above(team, source, maxima, at_least, o.scale, mass, max.reference);
}

// The leader's block: the candidates within the cutoff, into survivor_mass and num_kept.
template <class Team>
__device__ __forceinline__ void weigh_candidates(const Team& team, const Cutoff& cutoff, float c) {
  RowWork& w = *team.own;
  const uint64_t last = rank_key(cutoff.t, cutoff.id);
  uint32_t count = 0;
#pragma unroll 1
  for (int i = thread_index(); i < int(w.num_candidates); i += Team::kThreads) {
    const uint64_t key = w.candidates[i];
    if (key > last) continue;
    const int tile = int(key_id(key) / kTile);
    add_mass(w.survivor_mass + tile, token_mass(key_t(key), floorf(w.tile_max[tile] * c)));
    ++count;
  }
  if (count) atomicAdd(&w.num_kept, count);
  __syncthreads();
}

// The leader's block: the filters in transformers' order, each over the survivors of the one
// before. A query that is not answered keeps all of the candidates.
template <class Team>
__device__ __forceinline__ Cutoff filter_candidates(const Team& team, const Filters& on,
                                                    const RowMax& max, int num_tiles,
                                                    uint64_t total) {
  RowWork& w = *team.own;
  const RowOptions& o = w.options;
  Cutoff cutoff = all_survive();
#pragma unroll 1  // one copy of the query
  for (int i = 0; i < 2; ++i) {
    const bool by_mass = i == 1;  // top_p, after top_k
    if (!(by_mass ? on.top_p : on.top_k)) continue;
    RankQuery q = count_query(uint64_t(o.top_k), max.t);
    if (by_mass) {
      if (on.top_k) {
        weigh_candidates(team, cutoff, o.scale);
        total = total_mass(w, w.survivor_mass, num_tiles, o.scale, max.reference);
      }
      q = mass_query(mass_target(o.top_p, total), max, cutoff);
    }
    uint64_t key;
    if (query_candidates(team, q, key)) cutoff = by_mass ? cutoff_at(key) : cutoff_with_ties(key);
  }
  if (on.min_p) cutoff = stricter(cutoff, {min_p_bound(max, o), kLastId});
  return cutoff;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_CANDIDATES_CUH_
