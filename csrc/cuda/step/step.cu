// The CUDA entry points: check, choose, launch on the caller's stream. But for the tickets of a
// graph (tickets.h) nothing is allocated, and nothing waits: every call can be captured.
#include <cuda_runtime.h>

#include "common/error.h"
#include "cuda/common/launch.h"
#include "cuda/common/load_kernels.h"
#include "cuda/common/tickets.h"
#include "cuda/step/choose.h"
#include "cuda/step/kernels.h"
#include "cuda/step/layout.h"

namespace eft {
namespace {

cudaError_t current_chip(Chip& chip) {
  static Devices devices;
  return devices.current(chip, [](const Chip& asked) {
    cudaError_t error = load_kernels({stream_entry(0, true), top_ids_entry()});
    for (int count = 0; !error && count <= EFT_MAX_MODELS; ++count) {
      error = load_kernels({stream_entry(count, false), resident_entry(count)});
    }
    // Every block may have 48 KB; resident kernels want most of what the chip has.
    for (int count = 0; !error && asked.major >= 9 && count <= EFT_MAX_MODELS; ++count) {
      error = cudaFuncSetAttribute(resident_entry(count),
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, asked.shared_bytes);
    }
    return error;
  });
}

cudaError_t launch(Plan& plan, const LaunchChoice& choice, int64_t rows, cudaStream_t stream) {
  if (choice.cluster) return launch_resident(&plan, choice, rows, stream);
  if (plan.stage != kMixOnly || has_own_tokens(plan.step)) {
    const cudaError_t error = tickets_of_capture(stream, plan.workspace.tickets);
    if (error) return error;
  }
  const cudaError_t error = launch_stream(&plan, choice, rows, stream);
  if (error || plan.stage != kSampleRows || !plan.step.details.num_top) return error;
  return launch_top_ids(&plan, rows, stream);
}

int run(const eft_step* step, float* z, int64_t z_row_stride, void* stream, void* workspace,
        uint64_t workspace_bytes) {
  const uint64_t wanted = eft_cuda_workspace_bytes(step);
  if (const int error = check_workspace(workspace, workspace_bytes, wanted)) return error;
  Chip chip;
  cudaError_t error = current_chip(chip);
  const LaunchStage last = z ? kMixOnly : kSampleRows;
  for (int64_t first = 0; !error && first < step->num_rows; first += kMaxLaunchRows) {
    const int64_t left = step->num_rows - first;
    const int64_t rows = left < kMaxLaunchRows ? left : kMaxLaunchRows;
    for (const LaunchStage stage : {kModelNuclei, last}) {
      if (stage == kModelNuclei && !step->conservative) continue;
      Plan plan = make_plan(*step, stage, first, workspace, z, z_row_stride);
      const int64_t grid_rows = stage == kModelNuclei ? 3 * rows : rows;
      error = launch(plan, choose_launch(*step, stage, chip, rows), grid_rows,
                     static_cast<cudaStream_t>(stream));
      if (error) break;
    }
  }
  return status_of(error);
}

int check(const eft_step* step) {
  if (const int error = check_step(step)) return error;
  if (step->vocab_size > kMaxVocab) {
    return fail(EFT_UNSUPPORTED, "vocab_size: the CUDA step takes up to %lld, got %lld",
                (long long)kMaxVocab, (long long)step->vocab_size);
  }
  return EFT_OK;
}

}  // namespace
}  // namespace eft

extern "C" uint64_t eft_cuda_workspace_bytes(const eft_step* step) {
  eft::Workspace space;
  return eft::lay_out(*step, nullptr, space);
}

extern "C" int eft_step_cuda(const eft_step* step, void* stream, void* workspace,
                             uint64_t workspace_bytes) {
  if (const int error = eft::check(step)) return error;
  if (!step->tokens) return eft::fail(EFT_BAD_ARGUMENT, "tokens: null");
  return eft::run(step, nullptr, 0, stream, workspace, workspace_bytes);
}

extern "C" int eft_combine_cuda(const eft_step* step, float* z, int64_t z_row_stride, void* stream,
                                void* workspace, uint64_t workspace_bytes) {
  if (const int error = eft::check(step)) return error;
  if (!z) return eft::fail(EFT_BAD_ARGUMENT, "z: null");
  return eft::run(step, z, z_row_stride, stream, workspace, workspace_bytes);
}

extern "C" int eft_cuda_built(void) { return 1; }
extern "C" const char* eft_cuda_architectures(void) { return EFT_CUDA_ARCHITECTURES; }
extern "C" int eft_cuda_device_count(void) {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}
