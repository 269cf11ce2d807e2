// The CUDA entry points of scoring: one launch, a second where distributions are compared, and one
// before both for conservative re-weighting and one for own tokens. Nothing is allocated and
// nothing waits.
#include <cuda_runtime.h>

#include "common/error.h"
#include "cuda/common/launch.h"
#include "cuda/common/load_kernels.h"
#include "cuda/common/tickets.h"
#include "cuda/score/compare.cuh"
#include "cuda/score/kernels.h"
#include "cuda/score/read.cuh"
#include "cuda/step/choose.h"
#include "cuda/step/kernels.h"

namespace eft {

const void* score_entry() { return reinterpret_cast<const void*>(score_kernel); }
const void* compare_entry() { return reinterpret_cast<const void*>(compare_kernel); }

namespace {

cudaError_t current_chip(Chip& chip) {
  static Devices devices;
  return devices.current(chip, [](const Chip&) {
    return load_kernels({score_entry(), compare_entry(), stream_entry(0, false),
                         stream_entry(1, false), stream_entry(2, false), stream_entry(3, false),
                         stream_entry(4, false), stream_entry(0, true)});
  });
}

cudaError_t launch_before(const eft_score& score, LaunchStage stage, const Chip& chip,
                          int64_t first, int64_t rows, void* workspace, uint32_t* tickets,
                          cudaStream_t stream) {
  Plan plan = make_plan_before(score, stage, first, workspace);
  plan.workspace.tickets = tickets;
  return launch_stream(&plan, choose_launch(score.mixture, stage, chip, rows),
                       stage == kModelNuclei ? 3 * rows : rows, stream);
}

cudaError_t launch_rows(const eft_score& score, const Chip& chip, int64_t first, int64_t rows,
                        void* workspace, uint32_t* tickets, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for (const LaunchStage stage : {kModelNuclei, kMixOnly}) {
    if (error || !comes_before(score, stage)) continue;
    error = launch_before(score, stage, chip, first, rows, workspace, tickets, stream);
  }
  if (error) return error;
  ScorePlan plan = make_plan(score, first, workspace);
  plan.mixture.workspace.tickets = tickets;
  const int blocks = stream_blocks(rows, plan.mixture.num_tiles, chip);
  error = launch(score_entry(), &plan, blocks, rows, kScoreThreads, sizeof(ScoreWork), stream);
  if (error || !plan.compares) return error;
  return launch(compare_entry(), &plan, blocks, rows, kScoreThreads, sizeof(ScoreWork), stream);
}

int run(const eft_score& score, void* stream, void* workspace) {
  const cudaStream_t s = static_cast<cudaStream_t>(stream);
  Chip chip;
  cudaError_t error = current_chip(chip);
  uint32_t* tickets = static_cast<uint32_t*>(workspace);  // they lie in front
  if (!error) error = tickets_of_capture(s, tickets);
  const int64_t all = score.mixture.num_rows;
  for (int64_t first = 0; !error && first < all; first += kMaxLaunchRows) {
    const int64_t rows = all - first < kMaxLaunchRows ? all - first : kMaxLaunchRows;
    error = launch_rows(score, chip, first, rows, workspace, tickets, s);
  }
  return status_of(error);
}

}  // namespace
}  // namespace eft

extern "C" uint64_t eft_score_cuda_workspace_bytes(const eft_score* score) {
  eft::Workspace mixture;
  eft::ScoreSpace space;
  return eft::lay_out(*score, nullptr, mixture, space);
}

extern "C" int eft_score_cuda(const eft_score* given, void* stream, void* workspace,
                              uint64_t workspace_bytes) {
  using namespace eft;
  eft_score score;
  if (const int error = check_score(given, score)) return error;
  if (score.mixture.vocab_size > kMaxVocab) {
    return fail(EFT_UNSUPPORTED, "vocab_size: scoring on CUDA takes up to %lld, got %lld",
                (long long)kMaxVocab, (long long)score.mixture.vocab_size);
  }
  const uint64_t wanted = eft_score_cuda_workspace_bytes(&score);
  if (const int error = check_workspace(workspace, workspace_bytes, wanted)) return error;
  return run(score, stream, workspace);
}
