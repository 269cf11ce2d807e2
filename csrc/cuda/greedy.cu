// The greedy step on CUDA: one block a row, the mixture and its first maximum in one read of the K
// rows. The sampling kernels come on top of this path (docs/gpu.md says what has run on which GPU).
#include <cuda_runtime.h>

#include "common/dtype.h"
#include "common/error.h"
#include "common/row_options.h"

namespace eft {
namespace {

constexpr int kThreads = 512;

__device__ float load(const eft_logits& logits, int64_t at) {
  if (logits.dtype == EFT_BF16) return to_float(static_cast<const Bf16*>(logits.data)[at]);
  if (logits.dtype == EFT_FP16) return to_float(static_cast<const Fp16*>(logits.data)[at]);
  return static_cast<const float*>(logits.data)[at];
}

__device__ float lowest_of(const eft_logits& logits) {
  if (logits.dtype == EFT_BF16) return Lowest<Bf16>::value;
  return logits.dtype == EFT_FP16 ? Lowest<Fp16>::value : Lowest<float>::value;
}

// Largest key = largest z, then lowest id. Zero is below every key of a finite z.
__device__ uint64_t greedy_key(float z, uint32_t id) {
  const uint32_t bits = __float_as_uint(z + 0.0f);  // -0 counts as +0
  const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t(ascending) << 32 | uint32_t(~id);
}

struct Best {
  uint64_t key;
  int bad;  // NaN or +inf seen
};

__device__ Best better(Best a, Best b) { return {a.key > b.key ? a.key : b.key, a.bad | b.bad}; }

__device__ Best warp_best(Best best) {
  for (int lane = 16; lane; lane /= 2) {
    const Best other = {__shfl_xor_sync(0xffffffffu, best.key, lane),
                        __shfl_xor_sync(0xffffffffu, best.bad, lane)};
    best = better(best, other);
  }
  return best;
}

__device__ void consider(const eft_step& step, const float* weights, int64_t row, int64_t i,
                         Best& best) {
  if (step.allowed) {
    const uint32_t word = uint32_t(step.allowed[row * step.allowed_row_stride + i / 32]);
    if (!(word >> (i % 32) & 1)) return;
  }
  float z = 0.0f;
  for (int k = 0; k < step.num_models; ++k) {
    const float x = load(step.logits[k], row * step.logits[k].row_stride + i);
    if (x <= lowest_of(step.logits[k])) return;
    z = k ? __fmaf_rn(weights[k], x, z) : __fmul_rn(weights[0], x);
  }
  if (step.bias) z = __fadd_rn(z, step.bias[row * step.bias_row_stride + i]);
  best.bad |= !(z < INFINITY);
  if (z > -INFINITY && z < INFINITY) best = better(best, {greedy_key(z, uint32_t(i)), 0});
}

__global__ void __launch_bounds__(kThreads) greedy_kernel(const __grid_constant__ eft_step step) {
  __shared__ RowOptions options;
  __shared__ Best partial[kThreads / 32];
  const int64_t row = blockIdx.x;
  if (threadIdx.x == 0) options = row_options(step, row);
  __syncthreads();

  Best best = {0, 0};
  if (options.valid) {
    for (int64_t i = threadIdx.x; i < step.vocab_size; i += kThreads)
      consider(step, options.weights, row, i, best);
  }
  best = warp_best(best);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = warp_best(threadIdx.x < kThreads / 32 ? partial[threadIdx.x] : Best{0, 0});
  if (threadIdx.x) return;
  const bool ok = options.valid && best.key && !best.bad;
  step.tokens[row] = ok ? int64_t(uint32_t(~best.key)) : -1;
  if (step.details.status) step.details.status[row] = !ok;
}

bool is_greedy(const eft_step& step) {
  return !step.temperature.rows && step.temperature.value < kGreedyBelow && !step.conservative;
}

bool wants_only_status(const eft_details& d) {
  return !d.logprobs && !d.raw_logprobs && !d.model_logprobs && !d.entropy && !d.kept && !d.num_top;
}

}  // namespace
}  // namespace eft

extern "C" int eft_step_cuda(const eft_step* step, void* stream) {
  using namespace eft;
  if (const int error = check_step(step)) return error;
  if (!step->tokens) return fail(EFT_BAD_ARGUMENT, "tokens: null");
  if (!is_greedy(*step) || !wants_only_status(step->details)) {
    return fail(
        EFT_UNSUPPORTED,
        "cuda: this build has the greedy step without details (temperature 0 for all rows)");
  }
  // The grid's first dimension holds 2^31 - 1 blocks.
  if (step->num_rows > INT32_MAX)
    return fail(EFT_BAD_ARGUMENT, "num_rows: expected at most 2^31 - 1");
  greedy_kernel<<<unsigned(step->num_rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      *step);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? EFT_OK
                              : fail(EFT_DEVICE_ERROR, "cuda: %s", cudaGetErrorString(error));
}

extern "C" int eft_cuda_built(void) { return 1; }
extern "C" const char* eft_cuda_architectures(void) { return EFT_CUDA_ARCHITECTURES; }
extern "C" int eft_cuda_device_count(void) {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}
