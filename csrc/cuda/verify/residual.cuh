// The residual max(0, p - q) at the first rejected position, tile by tile.
#ifndef EFT_CUDA_VERIFY_RESIDUAL_CUH_
#define EFT_CUDA_VERIFY_RESIDUAL_CUH_

#include "cuda/common/mix.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/step/row_work.cuh"
#include "cuda/verify/plan.cuh"

namespace eft {
namespace {

enum PositionOutcome : int32_t {
  kAccepted,
  kInvalid,
  kGreedyToken,  // the mixture is greedy: its token
  kDrawMixture,
  kDrawResidual,
};

// RowWork's options and inputs are the mixture's.
struct DecideWork : RowWork {
  RowOptions draft_options;
  RowInputs draft_inputs;
  SlotMass p, q;
  double ratio;           // S_p / S_q
  int64_t certain_token;  // q is greedy: its token, whose weight is 0; else -1
  int slot;               // the mixture's at the position
  int position;
  PositionOutcome outcome;
  int64_t greedy_token;
};

// False where a group's largest z leaves it no mass under p: there is no residual, nothing is read.
__device__ __forceinline__ bool may_have_residual(const Plan& plan, const DecideWork& w, int tile,
                                                  int lane) {
  const int64_t at = int64_t(w.slot) * plan.num_tiles + tile;
  const float t = plan.workspace.group_max[at * kGroups + lane] * w.inputs.c;
  return t >= fmaxf(w.p.reference - 42.0f, w.p.cutoff.t);
}

// A warp's tile: the sum of rho; the weights into `weights`, [kTile], unless null.
__device__ __forceinline__ uint64_t residual_tile(const Plan& plan, const DecideWork& w, int tile,
                                                  int lane, uint64_t* weights) {
  const bool any = may_have_residual(plan, w, tile, lane);
  const int sides = w.certain_token < 0 ? 2 : 1;
  uint64_t sum = 0;
#pragma unroll 1
  for (int j = 0; j < kGroup / kPiece; ++j) {
    const int id = piece_id(tile, j, lane);
    double rho[kPiece];
#pragma unroll
    for (int i = 0; i < kPiece; ++i) rho[i] = 0.0;
#pragma unroll 1
    for (int side = 0; side < sides && any; ++side) {
      const RowInputs& inputs = side ? w.draft_inputs : w.inputs;
      const SlotMass& of = side ? w.q : w.p;
      float z[kPiece];
      mix_any_piece<true>(inputs, id, z);
#pragma unroll
      for (int i = 0; i < kPiece; ++i) {
        const float t = z[i] * inputs.c;
        const bool kept = keeps(of.cutoff, t, uint32_t(id + i)) && id + i != w.certain_token;
        const double mass = kept ? double(token_mass(t, of.reference)) : 0.0;
        rho[i] = side ? residual_weight(rho[i], mass, w.ratio) : mass;
      }
    }
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const uint64_t weight = uint64_t(rho[i]);
      sum += weight;
      if (weights) weights[(id + i) % kTile] = weight;
    }
  }
  return warp_add(sum);
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_VERIFY_RESIDUAL_CUH_
