// Groups, the 32 tokens of a tile that one lane held: which of them reach a bound, and their
// tokens. A group whose largest z is below the bound holds nothing above it, and is not read.
//
// A source (source.cuh) has the maxima and the tokens: of a row, or of a resident block's tiles.
#ifndef EFT_CUDA_STEP_GROUPS_CUH_
#define EFT_CUDA_STEP_GROUPS_CUH_

#include "cuda/step/row_work.cuh"

namespace eft {
namespace {

constexpr int kMaximaHeld = 16;  // group maxima that a thread reads at once

// Group maxima in a thread's registers, of a part of the row at a time: the loads of a part do not
// wait for one another. 4096 groups, the whole row up to 131072 tokens, are one part for 256
// threads, and stay for the next who asks.
template <int kThreads>
struct GroupMaxima {
  static constexpr int kOfPart = kMaximaHeld * kThreads;
  float z[kMaximaHeld];
  int part = -1;

  template <class Source>
  __device__ __forceinline__ void load(const Source& source, int wanted) {
    if (part == wanted) return;
    part = wanted;
    [[maybe_unused]] const OneRoundTrip together;
#pragma unroll
    for (int i = 0; i < kMaximaHeld; i += 4) {
      const int first = group(i);
      Bits128 four = {{0xff800000u, 0xff800000u, 0xff800000u, 0xff800000u}};  // -inf
      if (first < source.num_groups()) four = source.load_maxima(first);
#pragma unroll
      for (int j = 0; j < 4; ++j) z[i + j] = __uint_as_float(four.x[j]);
    }
  }
  // The group of z[i].
  __device__ __forceinline__ int group(int i) const {
    return part * kOfPart + (i / 4 * kThreads + int(thread_index())) * 4 + i % 4;
  }
};

// Appends the groups of one part whose largest t reaches `at_least` to w.groups; num_groups counts
// those too for which there is no room.
template <int kThreads>
__device__ __forceinline__ void list_part(const GroupMaxima<kThreads>& maxima, RowWork& w, float c,
                                          float at_least) {
  uint32_t reach = 0;
#pragma unroll
  for (int i = 0; i < kMaximaHeld; ++i) reach |= uint32_t(maxima.z[i] * c >= at_least) << i;
  if (!reach) return;
  uint32_t slot = atomicAdd(&w.num_groups, uint32_t(__popc(reach)));
  for (; reach && slot < kMaxGroupsListed; reach &= reach - 1) {
    w.groups[slot++] = uint16_t(maxima.group(__ffs(int(reach)) - 1));
  }
}

// Calls `visit(id, z)` for each 8 tokens of the groups that are listed. A thread has kInFlight
// pieces in flight: with three of them and 256 threads one round trip brings 192 groups.
template <int kInFlight, class Team, class Source, class Visit>
__device__ __forceinline__ void visit_listed(const Team& team, const Source& source,
                                             const Visit& visit) {
  const RowWork& w = *team.own;
  const int num_pieces = int(w.num_groups) * (kGroup / kPiece);
#pragma unroll 1
  for (int i = thread_index(); i < num_pieces; i += kInFlight * Team::kThreads) {
    int ids[kInFlight];
    typename Source::Raw raw[kInFlight];
    {
      [[maybe_unused]] const OneRoundTrip together;
#pragma unroll
      for (int p = 0; p < kInFlight; ++p) {
        const int at = i + p * Team::kThreads;
        if (at >= num_pieces) continue;
        const int group = w.groups[at / 4];
        ids[p] = piece_id(source.tile_of(group), at % 4, group % kGroups);
        source.load_own(group, at % 4, raw[p]);
      }
    }
#pragma unroll 1  // one copy of `visit`
    for (int at = i; at < smaller(num_pieces, i + kInFlight * Team::kThreads);
         at += Team::kThreads) {
      float z[kPiece];
      source.mix(ids[0], raw[0], z);
      visit(ids[0], z);
#pragma unroll
      for (int p = 1; p < kInFlight; ++p) ids[p - 1] = ids[p], raw[p - 1] = raw[p];
    }
  }
}

// z of token i of a piece, in registers, which have no index.
__device__ __forceinline__ float token_of_piece(const float* z, int i) {
  float found = z[0];
#pragma unroll
  for (int j = 1; j < kPiece; ++j) found = j == i ? z[j] : found;
  return found;
}

// Calls `visit(id, z)` for each 8 tokens of all groups that reach `at_least`, part by part, since
// they may be the whole row. Ends with a barrier of the block.
template <class Team, class Source, class Visit>
__device__ __forceinline__ void visit_all(const Team& team, const Source& source, float c,
                                          float at_least, const Visit& visit) {
  using Maxima = GroupMaxima<Team::kThreads>;
  // A block of a cluster has fewer groups than that: z of its tiles lies in its shared memory.
  static_assert(Maxima::kOfPart <= kMaxGroupsListed || Team::kClusters, "room for one part");
  RowWork& w = *team.own;
  const int count = source.num_groups();
#pragma unroll 1
  for (int part = 0; part * Maxima::kOfPart < count; ++part) {
    Maxima maxima;
    maxima.load(source, part);
    if (thread_index() == 0) w.num_groups = 0;
    __syncthreads();
    list_part(maxima, w, c, at_least);
    __syncthreads();
    visit_listed<1>(team, source, visit);
    __syncthreads();
  }
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_GROUPS_CUH_
