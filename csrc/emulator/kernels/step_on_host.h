// The CUDA step's kernels on the emulator. The test chooses every launch: all of them must give the
// same tokens.
#ifndef EFT_EMULATOR_KERNELS_STEP_ON_HOST_H_
#define EFT_EMULATOR_KERNELS_STEP_ON_HOST_H_

#include "eft.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { EFT_HOST_STREAMING = 0, EFT_HOST_RESIDENT = 1, EFT_HOST_CHOSEN = 2 };

typedef struct {
  uint64_t seed;        // of the order of threads and blocks, and of scratch memory's bytes
  int32_t kernel;       // EFT_HOST_*; CHOSEN: what the library would launch on an H200
  int32_t blocks;       // a row, or of its cluster (then 1, 2, 4, 8 or 16)
  int32_t bf16_kernel;  // 1: the kernel for bf16 models, where all are bf16
} eft_host_launch;

// Runs eft_step_cuda's kernels. EFT_DEVICE_ERROR where the emulator found a fault, EFT_UNSUPPORTED
// for what the resident kernel leaves to the streaming one.
EFT_API int eft_step_host(const eft_step* step, const eft_host_launch* how);
// Computes what eft_combine_cpu does, with the streaming kernel.
EFT_API int eft_combine_host(const eft_step* step, float* z, int64_t z_row_stride,
                             const eft_host_launch* how);
// Runs eft_verify_cuda's kernels; `kernel` is STREAMING (then all launches have `blocks` a row) or
// CHOSEN.
EFT_API int eft_verify_host(const eft_verify* verify, const eft_host_launch* how);
// Returns the bytes that the last call read by 16-byte loads.
EFT_API uint64_t eft_host_bytes_loaded(void);
// Writes the last call's block barriers, cluster barriers and round trips to global memory along
// the longest path (simt::Counts): three from the row's ticket on, then three before it.
EFT_API void eft_host_counts(uint64_t counts[6]);
EFT_API int eft_host_detects_races(void);

#ifdef __cplusplus
}
#endif
#endif  // EFT_EMULATOR_KERNELS_STEP_ON_HOST_H_
