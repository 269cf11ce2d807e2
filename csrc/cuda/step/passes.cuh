// The passes over a row's tokens, by the whole team, and over its candidates or tiles, by the
// leader's block. Only groups whose largest z reaches the pass's bound are read. The three passes
// over tokens share one loop, since reading tokens is most of their code.
//
// kBinGroups        group maxima, max_t           → bins
// kGather           keys low to high              → candidates, num_candidates
// kBinTokens        tokens in the query's range   → bins
// kWeighTokens      tokens within the cutoff      → tile_mass, num_kept
// kWeighCandidates  candidates within the cutoff  → tile_mass, num_kept
// kTotalMass        tile_mass                     → the survivors' mass
#ifndef EFT_CUDA_STEP_PASSES_CUH_
#define EFT_CUDA_STEP_PASSES_CUH_

#include "cuda/step/rank_query.cuh"

namespace eft {
namespace {

// kTotalMass: sum of W_T >> (A - a_T).
template <class Team>
__device__ __forceinline__ uint64_t total_mass(const Team& team, int num_tiles, float c, float a) {
  RowWork& w = *team.own;
  uint64_t mass = 0, total;
  for (int i = thread_index(); i < num_tiles; i += Team::kThreads) {
    mass += w.tile_mass[i] >> tile_shift(a, floorf(w.tile_max[i] * c));
  }
  scan_before<Team::kThreads>(mass, w.warp_partial, total);
  return total;
}

// kGather: one group's tokens. Past kMaxCandidates they are only counted.
template <class Team>
__device__ __forceinline__ void append_candidates(const Team& team, const Pass& pass, int tile,
                                                  int lane, const float* z) {
  const float c = pass.c;
  uint32_t mask = 0;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    const float t = z[i] * c;
    const uint64_t key = rank_key(t, uint32_t(token_id(tile, lane, i)));
    mask |= uint32_t(t > -INFINITY && key >= pass.low && key <= pass.high) << i;
  }
  if (!mask) return;
  uint32_t slot = atomicAdd(&team.leader->num_candidates, uint32_t(__popc(mask)));
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    if (!(mask >> i & 1)) continue;
    const uint64_t key = rank_key(z[i] * c, uint32_t(token_id(tile, lane, i)));
    if (slot < kMaxCandidates) team.leader->candidates[slot] = key;
    ++slot;
  }
}

// kBinTokens: 8 tokens.
template <class Team>
__device__ __forceinline__ void bin_piece(const Team& team, const Pass& pass, int id,
                                          const float* z) {
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    const float t = z[i] * pass.c;
    const uint64_t key = rank_key(t, uint32_t(id + i));
    if (!(t > -INFINITY) || !in_range(pass.query, key)) continue;
    add_to_bin(team.own->bins, bin_of(pass.query, key), weight_of(pass.query, key), 1);
  }
}

// kWeighTokens: 8 tokens.
template <class Team>
__device__ __forceinline__ void weigh_piece(const Team& team, const Pass& pass, int id,
                                            const float* z) {
  RowWork& leader = *team.leader;
  const int tile = id / kTile;
  const float a = floorf(leader.tile_max[tile] * pass.c);
  uint64_t sum = 0;
  uint32_t count = 0;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    const float t = z[i] * pass.c;
    const bool kept = keeps(pass.cutoff, t, uint32_t(id + i));
    sum += kept ? token_mass(t, a) : 0;
    count += kept;
  }
  if (!count) return;
  add_mass(leader.tile_mass + tile, sum);
  atomicAdd(&leader.num_kept, count);
}

// kWeighCandidates.
template <class Team>
__device__ __forceinline__ void weigh_candidates(const Team& team, int num_tiles) {
  RowWork& w = *team.own;
  const Pass& pass = w.filter.pass;
  for (int i = thread_index(); i < num_tiles; i += Team::kThreads) w.tile_mass[i] = 0;
  if (thread_index() == 0) w.num_kept = 0;
  __syncthreads();
  const uint64_t last = rank_key(pass.cutoff.t, pass.cutoff.id);
  uint32_t count = 0;
  for (int i = thread_index(); i < int(w.num_candidates); i += Team::kThreads) {
    const uint64_t key = w.candidates[i];
    if (key > last) continue;
    const int tile = int(key_id(key) / kTile);
    add_mass(w.tile_mass + tile, token_mass(key_t(key), floorf(w.tile_max[tile] * pass.c)));
    ++count;
  }
  if (count) atomicAdd(&w.num_kept, count);
}

// The lowest t that a pass reads. A token 41 powers of two below the reference has no mass.
__device__ __forceinline__ float lowest_t_of(const Pass& pass) {
  if (pass.kind == kWeighTokens) return pass.cutoff.t;
  if (pass.kind == kGather) return lowest_of_key(pass.high);
  const float deepest = pass.query.by_mass ? pass.query.max_t - 42.0f : kLowestT;
  return fmaxf(deepest, lowest_of_key(pass.query.high));
}

// The leader's block clears what the team's pass adds to.
template <class Team>
__device__ __forceinline__ void clear_for_pass(const Team& team, PassKind kind, int num_tiles) {
  RowWork& w = *team.own;
  if (thread_index() == 0 && kind == kGather) w.num_candidates = 0;
  if (thread_index() == 0 && kind == kWeighTokens) w.num_kept = 0;
  for (int i = thread_index(); kind == kWeighTokens && i < num_tiles; i += Team::kThreads) {
    w.tile_mass[i] = 0;
  }
  if (kind == kBinTokens || kind == kBinGroups) clear_bins(team);
}

// kBinGroups.
template <class Team, class Source>
__device__ __forceinline__ void bin_groups(const Team& team, const Source& source,
                                           const Pass& pass) {
  for (int g = thread_index(); g < source.num_groups(); g += Team::kThreads) {
    const float t = source.group_max(g) * pass.c;
    if (t > -INFINITY) add_to_bin(team.own->bins, linear_bin(pass.query.max_t, t), 1, 1);
  }
}

// kGather, kBinTokens or kWeighTokens: lists the groups that reach the bound, then reads them.
template <class Team, class Source>
__device__ __forceinline__ void read_tokens(const Team& team, const Source& source,
                                            const Pass& pass) {
  RowWork& w = *team.own;
  const float at_least = lowest_t_of(pass);
  const int count = source.num_groups();
  int groups_left = pass.kind == kGather ? pass.max_groups : count;
  for (int start = 0; start < count && groups_left >= 0; start += kMaxGroupsToRead) {
    const int end = smaller(count, start + kMaxGroupsToRead);
    __syncthreads();
    if (thread_index() == 0) w.num_groups_to_read = 0;
    __syncthreads();
    for (int g = start + int(thread_index()); g < end; g += Team::kThreads) {
      if (source.group_max(g) * pass.c >= at_least) {
        w.groups_to_read[atomicAdd(&w.num_groups_to_read, 1u)] = uint16_t(g);
      }
    }
    __syncthreads();
    const int num_groups_to_read = int(w.num_groups_to_read);
    groups_left -= num_groups_to_read;
    if (groups_left < 0) {
      if (thread_index() == 0)
        atomicAdd(&team.leader->num_candidates, uint32_t(kMaxCandidates) + 1);
    } else if (pass.kind == kGather) {
      for (int i = thread_index(); i < num_groups_to_read; i += Team::kThreads) {
        const int group = w.groups_to_read[i];
        float z[kGroup];
        source.load_group(group, z);
        append_candidates(team, pass, source.tile_of(group), group % kGroups, z);
      }
    } else {
      for (int i = thread_index(); i < num_groups_to_read * 4; i += Team::kThreads) {
        const int group = w.groups_to_read[i / 4];
        const int id = piece_id(source.tile_of(group), i % 4, group % kGroups);
        float z[kPiece];
        source.load_piece(group, i % 4, z);
        if (pass.kind == kBinTokens) {
          bin_piece(team, pass, id, z);
        } else {
          weigh_piece(team, pass, id, z);
        }
      }
    }
  }
}

// The team's pass, after clear_for_pass.
template <class Team, class Source>
__device__ __forceinline__ void run_pass(const Team& team, const Source& source) {
  const Pass& pass = team.own->filter.pass;
  if (!team.is_leader() && (pass.kind == kBinTokens || pass.kind == kBinGroups)) clear_bins(team);
  __syncthreads();
  if (pass.kind == kBinGroups) {
    bin_groups(team, source, pass);
  } else {
    read_tokens(team, source, pass);
  }
  if (pass.kind == kBinTokens || pass.kind == kBinGroups) merge_bins(team);
  team.sync();
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_PASSES_CUH_
