// The verification's entry point: check, launch on the caller's stream. As for the step nothing is
// allocated and nothing waits.
#include <cuda_runtime.h>

#include "common/error.h"
#include "cuda/common/launch.h"
#include "cuda/common/load_kernels.h"
#include "cuda/common/tickets.h"
#include "cuda/step/choose.h"
#include "cuda/step/kernels.h"
#include "cuda/verify/decide.cuh"
#include "cuda/verify/kernels.h"
#include "cuda/verify/layout.h"
#include "cuda/verify/slot.cuh"

namespace eft {

const void* verify_stream_entry(bool conservative) {
  return conservative ? reinterpret_cast<const void*>(verify_stream_kernel<true>)
                      : reinterpret_cast<const void*>(verify_stream_kernel<false>);
}
const void* verify_decide_entry() { return reinterpret_cast<const void*>(verify_decide_kernel); }

namespace {

static_assert(sizeof(SlotWork) <= 48 * 1024 && sizeof(DecideWork) <= 48 * 1024,
              "shared memory that need not be asked for");

cudaError_t current_chip(Chip& chip) {
  static Devices devices;
  return devices.current(chip, [](const Chip&) {
    return load_kernels({verify_stream_entry(true), verify_stream_entry(false),
                         verify_decide_entry(), stream_entry(0, false), stream_entry(1, false)});
  });
}

// The rows of one plan.
cudaError_t verify_rows(const eft_verify& v, const VerifyPlan& plan, const Chip& chip,
                        cudaStream_t stream) {
  const int64_t rows = plan.num_rows, slots = rows * (2 * int64_t(v.num_drafts) + 1);
  const int tiles = plan.mixture.num_tiles;
  cudaError_t error = cudaSuccess;
  for (int i = 0; !error && v.step.conservative && i <= v.num_drafts; ++i) {
    const Plan nuclei = nuclei_plan(v, plan, i);
    const LaunchChoice choice = choose_launch(nuclei.step, kModelNuclei, chip, rows);
    error = launch_stream(&nuclei, choice, 3 * rows, stream);
  }
  if (error) return error;
  error = launch(verify_stream_entry(v.step.conservative), &plan, stream_blocks(slots, tiles, chip),
                 slots, kStreamThreads, sizeof(SlotWork), stream);
  if (error) return error;
  return launch(verify_decide_entry(), &plan, stream_blocks(rows, tiles, chip), rows,
                kStreamThreads, sizeof(DecideWork), stream);
}

int check(const eft_verify* v) {
  if (const int error = check_verify(v)) return error;
  if (v->step.vocab_size > kMaxVocab) {
    return fail(EFT_UNSUPPORTED, "vocab_size: the CUDA verification takes up to %lld, got %lld",
                (long long)kMaxVocab, (long long)v->step.vocab_size);
  }
  if (v->num_drafts > kMaxDrafts) {
    return fail(EFT_UNSUPPORTED, "num_drafts: the CUDA verification takes up to %d, got %d",
                kMaxDrafts, v->num_drafts);
  }
  return EFT_OK;
}

}  // namespace
}  // namespace eft

extern "C" uint64_t eft_verify_cuda_workspace_bytes(const eft_verify* verify) {
  eft::VerifySpace space;
  return eft::lay_out(*verify, nullptr, space);
}

extern "C" int eft_verify_cuda(const eft_verify* verify, void* stream, void* workspace,
                               uint64_t workspace_bytes) {
  using namespace eft;
  if (const int error = check(verify)) return error;
  VerifySpace space;
  const uint64_t wanted = lay_out(*verify, workspace, space);
  if (const int error = check_workspace(workspace, workspace_bytes, wanted)) return error;
  const cudaStream_t s = static_cast<cudaStream_t>(stream);
  Chip chip;
  cudaError_t error = current_chip(chip);
  if (!error) error = tickets_of_capture(s, space.tiles.tickets);
  for (int64_t first = 0; !error && first < verify->step.num_rows; first += rows_at_once(*verify)) {
    error = verify_rows(*verify, make_plan(*verify, first, space), chip, s);
  }
  return status_of(error);
}
