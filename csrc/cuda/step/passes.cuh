// A pass over the row's tokens that may matter, by the whole team: into the leader's list, into
// bins of weight, or into the survivors' masses. One piece of code for all three, since the reading
// of tokens is most of it.
#ifndef EFT_CUDA_STEP_PASSES_CUH_
#define EFT_CUDA_STEP_PASSES_CUH_

#include "cuda/step/rank_query.cuh"

namespace eft {
namespace {

// Leader's block: sum of W_T >> (A - a_T).
template <class Team>
__device__ __forceinline__ uint64_t total_mass(const Team& team, int num_tiles, float c, float a) {
  RowWork& w = *team.own;
  uint64_t own = 0, total;
  for (int i = thread_index(); i < num_tiles; i += Team::kThreads) {
    own += w.tile_mass[i] >> tile_shift(a, floorf(w.tile_max[i] * c));
  }
  scan_before<Team::kThreads>(own, w.partial, total);
  return total;
}

// Appends one group's tokens to the leader's list; past its end they are only counted.
template <class Team>
__device__ __forceinline__ void append(const Team& team, const Visit& v, int tile, int lane,
                                       const float* z) {
  const float c = v.c;
  uint32_t mask = 0;
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    const float t = z[i] * c;
    const uint64_t key = rank_key(t, uint32_t(token_id(tile, lane, i)));
    mask |= uint32_t(t > -INFINITY && key >= v.low && key <= v.high) << i;
  }
  if (!mask) return;
  uint32_t place = atomicAdd(&team.lead->list_count, uint32_t(__popc(mask)));
#pragma unroll
  for (int i = 0; i < kGroup; ++i) {
    if (!(mask >> i & 1)) continue;
    const uint64_t key = rank_key(z[i] * c, uint32_t(token_id(tile, lane, i)));
    if (place < kList) team.lead->list[place] = key;
    ++place;
  }
}

template <class Team>
__device__ __forceinline__ void bin_piece(const Team& team, const Visit& v, int id,
                                          const float* z) {
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    const float t = z[i] * v.c;
    const uint64_t key = rank_key(t, uint32_t(id + i));
    if (!(t > -INFINITY) || !in_range(v.hunt, key)) continue;
    add_to_bin(team.own->bins, bin_of(v.hunt, key), weight_of(v.hunt, key), 1);
  }
}

template <class Team>
__device__ __forceinline__ void weigh_piece(const Team& team, const Visit& v, int id,
                                            const float* z) {
  RowWork& lead = *team.lead;
  const int tile = id / kTile;
  const float a = floorf(lead.tile_max[tile] * v.c);
  uint64_t sum = 0;
  uint32_t count = 0;
#pragma unroll
  for (int i = 0; i < kPiece; ++i) {
    const float t = z[i] * v.c;
    const bool kept = keeps(v.limit, t, uint32_t(id + i));
    sum += kept ? token_mass(t, a) : 0;
    count += kept;
  }
  if (!count) return;
  add_mass(lead.tile_mass + tile, sum);
  atomicAdd(&lead.num_kept, count);
}

// Leader's block.
template <class Team>
__device__ __forceinline__ void weigh_list(const Team& team, int num_tiles) {
  RowWork& w = *team.own;
  const Visit& v = w.search.visit;
  for (int i = thread_index(); i < num_tiles; i += Team::kThreads) w.tile_mass[i] = 0;
  if (thread_index() == 0) w.num_kept = 0;
  __syncthreads();
  const uint64_t last = rank_key(v.limit.t, v.limit.id);
  uint32_t count = 0;
  for (int i = thread_index(); i < int(w.list_count); i += Team::kThreads) {
    const uint64_t key = w.list[i];
    if (key > last) continue;
    const int tile = int(key_id(key) / kTile);
    add_mass(w.tile_mass + tile, token_mass(key_t(key), floorf(w.tile_max[tile] * v.c)));
    ++count;
  }
  if (count) atomicAdd(&w.num_kept, count);
}

// The lowest t that a pass has to look at. A token 41 powers of two below the reference weighs
// nothing.
__device__ __forceinline__ float lowest_for(const Visit& v) {
  if (v.pass == kWeigh) return v.limit.t;
  if (v.pass == kGather) return lowest_of_key(v.high);
  const float deepest = v.hunt.by_mass ? v.hunt.top - 42.0f : kLowestT;
  return fmaxf(deepest, lowest_of_key(v.hunt.high));
}

// Leader's block, before the team comes together: what the pass adds to is cleared.
template <class Team>
__device__ __forceinline__ void clear_for(const Team& team, Pass pass, int num_tiles) {
  RowWork& w = *team.own;
  if (thread_index() == 0 && pass == kGather) w.list_count = 0;
  if (thread_index() == 0 && pass == kWeigh) w.num_kept = 0;
  for (int i = thread_index(); pass == kWeigh && i < num_tiles; i += Team::kThreads) {
    w.tile_mass[i] = 0;
  }
  if (pass == kBin || pass == kBound) clear_bins(team);
}

// kBound: the group maxima into the bins.
template <class Team, class Source>
__device__ __forceinline__ void bin_groups(const Team& team, const Source& source, const Visit& v) {
  for (int g = thread_index(); g < source.num_groups(); g += Team::kThreads) {
    const float t = source.group_max(g) * v.c;
    if (t > -INFINITY) add_to_bin(team.own->bins, linear_bin(v.hunt.top, t), 1, 1);
  }
}

template <class Team, class Source>
__device__ __forceinline__ void visit_tokens(const Team& team, const Source& source,
                                             const Visit& v) {
  RowWork& w = *team.own;
  const float at_least = lowest_for(v);
  const int count = source.num_groups();
  int most = v.pass == kGather ? v.most : count;
  for (int start = 0; start < count && most >= 0; start += kVisited) {
    const int end = smaller(count, start + kVisited);
    __syncthreads();
    if (thread_index() == 0) w.num_visited = 0;
    __syncthreads();
    for (int g = start + int(thread_index()); g < end; g += Team::kThreads) {
      if (source.group_max(g) * v.c >= at_least) {
        w.visited[atomicAdd(&w.num_visited, 1u)] = uint16_t(g);
      }
    }
    __syncthreads();
    const int num_visited = int(w.num_visited);
    most -= num_visited;
    if (most < 0) {
      if (thread_index() == 0) atomicAdd(&team.lead->list_count, uint32_t(kList) + 1);
    } else if (v.pass == kGather) {
      for (int i = thread_index(); i < num_visited; i += Team::kThreads) {
        const int group = w.visited[i];
        float z[kGroup];
        source.load_group(group, z);
        append(team, v, source.tile_of(group), group % kGroups, z);
      }
    } else {
      for (int i = thread_index(); i < num_visited * 4; i += Team::kThreads) {
        const int group = w.visited[i / 4];
        const int id = piece_id(source.tile_of(group), i % 4, group % kGroups);
        float z[kPiece];
        source.load_piece(group, i % 4, z);
        if (v.pass == kBin) {
          bin_piece(team, v, id, z);
        } else {
          weigh_piece(team, v, id, z);
        }
      }
    }
  }
}

// The team together, the leader's memory cleared.
template <class Team, class Source>
__device__ __forceinline__ void visit(const Team& team, const Source& source) {
  const Visit& v = team.own->search.visit;
  if (!team.leads() && (v.pass == kBin || v.pass == kBound)) clear_bins(team);
  __syncthreads();
  if (v.pass == kBound) {
    bin_groups(team, source, v);
  } else {
    visit_tokens(team, source, v);
  }
  if (v.pass == kBin || v.pass == kBound) merge_bins(team);
  team.sync();
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_PASSES_CUH_
