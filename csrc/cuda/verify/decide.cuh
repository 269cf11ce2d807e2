// The second launch of a verification: each row finds its first rejected position and the token
// there. All of the row's blocks sum a residual, and the one with the last ticket draws from it.
#ifndef EFT_CUDA_VERIFY_DECIDE_CUH_
#define EFT_CUDA_VERIFY_DECIDE_CUH_

#include "common/philox.h"
#include "cuda/step/draw.cuh"
#include "cuda/step/stream.cuh"
#include "cuda/verify/residual.cuh"

namespace eft {
namespace {

// The outcome of one position, whatever the others are.
__device__ __forceinline__ PositionOutcome outcome_at(const VerifyPlan& v, const DecideWork& w,
                                                      int64_t row, int position, int length,
                                                      int64_t& greedy_token) {
  const int row_of_launch = int(row - v.mixture.first_row);
  const int slot = slot_of(v, row_of_launch, position, false);
  const int64_t draft = position < length ? v.drafts[row * v.num_drafts + position] : 0;
  if (draft < 0 || draft >= v.mixture.step.vocab_size) return kInvalid;
  const int64_t* tokens = v.mixture.step.tokens;
  greedy_token = tokens[slot];
  if (greedy_token < 0) return kInvalid;
  if (w.options.greedy)
    return position < length && greedy_token == draft ? kAccepted : kGreedyToken;
  if (position == length) return kDrawMixture;
  const SlotMass p = v.slot_mass[slot];
  const uint64_t bits =
      random_bits(w.options.seed, w.options.position + uint64_t(position), 0, kAccept);
  uint64_t draft_mass = 1, mass = 1;
  if (!w.draft_options.greedy) {
    const int drafted = slot_of(v, row_of_launch, position, true);
    if (tokens[drafted] < 0) return kInvalid;
    draft_mass = v.slot_mass[drafted].draft_mass;
    mass = v.slot_mass[drafted].mass;
  }
  return accepts(bits, p.draft_mass, p.mass, draft_mass, mass) ? kAccepted : kDrawResidual;
}

// The first warp, 32 positions at a time: the first that is not accepted.
__device__ __forceinline__ void find_first_rejected(const VerifyPlan& v, int64_t row, int length,
                                                    DecideWork& w) {
  for (int first = 0;; first += 32) {
    const int position = first + int(thread_index());
    int64_t greedy_token = -1;
    const PositionOutcome outcome =
        position <= length ? outcome_at(v, w, row, position, length, greedy_token) : kAccepted;
    const uint32_t ends = __ballot_sync(0xffffffffu, outcome != kAccepted);
    if (!ends) continue;  // a row's last position is never accepted
    if (int(thread_index()) == __ffs(int(ends)) - 1) {
      w.position = position;
      w.outcome = outcome;
      w.greedy_token = greedy_token;
    }
    return;
  }
}

// Thread 0 sets up the draw at w.position.
__device__ __forceinline__ void set_up_draw(const VerifyPlan& v, int64_t row, DecideWork& w) {
  const int row_of_launch = int(row - v.mixture.first_row);
  w.slot = slot_of(v, row_of_launch, w.position, false);
  w.p = v.slot_mass[w.slot];
  inputs_at(v, w.options, row, w.position, false, w.inputs);
  if (w.inputs.owner >= 0) {
    set_own_delta(w.inputs, v.mixture.workspace.own_deltas[w.slot]);
  }
  w.certain_token = -1;
  if (w.outcome != kDrawResidual) return;
  if (w.draft_options.greedy) {
    w.certain_token = v.drafts[row * v.num_drafts + w.position];
    return;
  }
  w.q = v.slot_mass[slot_of(v, row_of_launch, w.position, true)];
  w.ratio = double(w.p.mass) / double(w.q.mass);
  inputs_at(v, w.draft_options, row, w.position, true, w.draft_inputs);
}

// The whole block. `accepted` drafts, then this token, or -1 where the row is invalid.
__device__ __forceinline__ void write_verified(const VerifyPlan& v, int64_t row, int accepted,
                                               int64_t token) {
  int64_t* tokens = v.tokens + row * (int64_t(v.num_drafts) + 1);
  for (int i = thread_index(); i <= v.num_drafts; i += kStreamThreads) {
    tokens[i] = i < accepted ? v.drafts[row * v.num_drafts + i] : i == accepted ? token : -1;
  }
  if (thread_index()) return;
  v.num_accepted[row] = accepted;
  v.status[row] = token < 0;
}

// One block draws the token at w.position.
__device__ __forceinline__ int64_t draw_token(const VerifyPlan& v, DecideWork& w) {
  const auto team = one_block_team(w);
  const Plan& plan = v.mixture;
  const int num_tiles = plan.num_tiles;
  const bool residual = w.outcome == kDrawResidual;
  const uint64_t bits = random_bits(w.options.seed, w.options.position + uint64_t(w.position), 0,
                                    residual ? kResidual : kSample);
  if (residual) {
    const uint64_t* sums = v.residual + int64_t(blockIdx.y) * num_tiles;
    for (int i = thread_index(); i < padded_tiles(num_tiles); i += kStreamThreads) {
      w.tile_mass[i] = i < num_tiles ? load_written(sums + i) : 0;
      w.tile_max[i] = 0.0f;  // the row's reference, for all tiles: no sum is shifted
    }
    __syncthreads();
    const TileDraw draw = draw_tile(w, w.tile_mass, num_tiles, 1.0f, 0.0f, bits);
    if (draw.total) {
      if (thread_index() < 32)
        residual_tile(plan, w, draw.tile, int(thread_index()), w.token_weights);
      __syncthreads();
      uint64_t weights[kPiece] = {};
      const int first = int(thread_index()) * kPiece;
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        if (first + i < kTile) weights[i] = w.token_weights[first + i];
      }
      const int picked = pick_in_tile(team, weights, draw.offset);
      if (picked >= 0) w.token = draw.tile * kTile + first + picked;
      __syncthreads();
      return w.token;
    }
    __syncthreads();
  }
  const StreamSource<0, true> source = {&w, num_tiles, &plan.workspace,
                                        int64_t(w.slot) * num_tiles};
  source.put_tiles(source.load_tiles(), w);
  const RowOptions& o = w.options;
  const TileDraw draw = draw_tile(w, w.tile_mass, num_tiles, o.scale, w.p.reference, bits);
  const float a = floorf(w.tile_max[draw.tile] * o.scale);
  const Drawn drawn =
      draw_in_tile(team, source, draw.tile, draw.offset, SurvivorMass{w.p.cutoff, o.scale, a});
  if (drawn.token >= 0) w.token = drawn.token;
  __syncthreads();
  return w.token;
}

// Grid: (blocks a row, rows).
__device__ __forceinline__ void decide_row(const VerifyPlan& v) {
  DecideWork& w = *reinterpret_cast<DecideWork*>(dynamic_shared());
  const Plan& plan = v.mixture;
  const int64_t row = plan.first_row + blockIdx.y;
  const int64_t length = option_at(v.lengths, row);
  if (threadIdx.x == 0) {
    w.options = options_of(plan, row);
    set_draw(plan, row, load_draw(plan, row), w.options);
    w.draft_options = options_of(v.draft, row);
  }
  __syncthreads();
  if (!w.options.valid || !w.draft_options.valid || length < 0 || length > v.num_drafts) {
    if (blockIdx.x == 0) write_verified(v, row, 0, -1);
    return;
  }
  if (threadIdx.x < 32) find_first_rejected(v, row, int(length), w);
  __syncthreads();
  const PositionOutcome outcome = w.outcome;
  if (outcome != kDrawResidual && blockIdx.x) return;
  if (outcome == kInvalid || outcome == kGreedyToken) {
    return write_verified(v, row, w.position, outcome == kGreedyToken ? w.greedy_token : -1);
  }
  if (threadIdx.x == 0) set_up_draw(v, row, w);
  __syncthreads();
  if (outcome == kDrawResidual) {
    const int lane = threadIdx.x % 32;
    for (int tile = int(threadIdx.x / 32 * gridDim.x + blockIdx.x); tile < plan.num_tiles;
         tile += int(kStreamThreads / 32 * gridDim.x)) {
      const uint64_t sum = residual_tile(plan, w, tile, lane, nullptr);
      if (lane == 0) v.residual[int64_t(blockIdx.y) * plan.num_tiles + tile] = sum;
    }
    if (!takes_last_ticket(plan, int(blockIdx.y), row, w)) return;
  }
  const int64_t token = draw_token(v, w);
  write_verified(v, row, w.position, token);
}

__global__ void __launch_bounds__(kStreamThreads, 2)
    verify_decide_kernel(const __grid_constant__ VerifyPlan v) {
  decide_row(v);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_VERIFY_DECIDE_CUH_
