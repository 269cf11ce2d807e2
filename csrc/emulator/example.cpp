// The example of README.md: a correct kernel in eight orders of threads, then the same without its
// barrier. Compiled with -fsanitize=thread, so the race detector watches.
#include <stdio.h>

#include "emulator/cuda_device.h"

__global__ void block_sum(const int* x, int* sum, bool barrier) {
  int* partial = simt::shared<int>();  // the dynamic shared memory of this block
  const int warp_sum = __reduce_add_sync(0xffffffffu, x[threadIdx.x]);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = warp_sum;
  if (barrier) __syncthreads();
  if (threadIdx.x != 0) return;
  *sum = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) *sum += partial[w];
}

int main() {
  int x[128], sum = 0;
  for (int i = 0; i < 128; ++i) x[i] = i;
  simt::Launch launch;
  launch.threads = 128;
  launch.shared_bytes = 4 * sizeof(int);
  for (launch.seed = 0; launch.seed < 8; ++launch.seed) {  // the seed decides the order of threads
    simt::launch(launch, block_sum, x, &sum, true);
    if (sum != 127 * 128 / 2) return 1;
  }
  printf("8 orders: sum %d\n", sum);
  try {
    simt::launch(launch, block_sum, x, &sum, false);
  } catch (const simt::Error& error) {
    printf("%s\n", error.what());
  }
}
