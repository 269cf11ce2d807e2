// Chooses a step's kernel and its grid, by its shape and the chip. Every number here is an
// estimate (docs/gpu.md lists what has been measured).
#ifndef EFT_CUDA_STEP_CHOOSE_H_
#define EFT_CUDA_STEP_CHOOSE_H_

#include "cuda/common/chip.h"
#include "cuda/step/layout.h"
#include "cuda/step/row_work.cuh"

namespace eft {

// The kernel and the grid of a launch.
struct LaunchChoice {
  int num_bf16_models;  // that the kernel is compiled for; 0: any dtypes, bias, bitmask
  bool conservative;
  int cluster;  // blocks of a row's cluster; 0: streaming
  int blocks;   // of a row
  int64_t shared_bytes;
};

namespace {

// Every row lies on a 16-byte boundary.
inline bool is_aligned(const eft_logits& logits, int64_t num_rows) {
  const bool rows = num_rows == 1 || logits.row_stride % 8 == 0;
  return rows && reinterpret_cast<uintptr_t>(logits.data) % 16 == 0;
}

inline int num_bf16_models_of(const eft_step& step, LaunchStage stage) {
  for (int k = 0; k < step.num_models; ++k) {
    if (step.logits[k].dtype != EFT_BF16 || !is_aligned(step.logits[k], step.num_rows)) return 0;
  }
  if (stage == kModelNuclei) return 1;
  return step.bias || step.token_bitmask || step.conservative ? 0 : step.num_models;
}

// The largest cluster with which all rows are resident at once; 0 if none. Estimated: an eighth of
// the multiprocessors stays unused, since a cluster has to fit into one of the chip's groups of
// them.
inline int resident_cluster(const eft_step& step, LaunchStage stage, const Chip& chip,
                            int64_t rows) {
  if (chip.major < 9 || stage != kSampleRows || step.conservative || step.special.tiles ||
      wants_stats(step.details)) {
    return 0;
  }
  const int tiles = num_tiles_of(step);
  for (int cluster = 8; cluster >= 2; cluster /= 2) {
    if (rows * cluster > chip.num_sms - chip.num_sms / 8) continue;
    if (cluster > 2 && (cluster / 2) * 16 >= tiles)
      continue;  // half of it already has a warp for each tile
    const int of_block = (tiles + cluster - 1) / cluster;
    return resident_bytes(of_block) <= chip.shared_bytes ? cluster : 0;
  }
  return 0;
}

// Blocks a row, by the fewest rounds of tiles: a wave of blocks takes as long as its warps' tiles
// and, estimated, half a tile's time for its start and end.
inline int stream_blocks(int64_t rows, int tiles, const Chip& chip) {
  constexpr int kWarps = kStreamThreads / 32;
  const int64_t slots = 2 * int64_t(chip.num_sms);
  int best = 1;
  int64_t best_cost = INT64_MAX;
  for (int blocks = 1; blocks <= (tiles + kWarps - 1) / kWarps; ++blocks) {
    const int64_t rounds = (tiles + kWarps * blocks - 1) / (kWarps * blocks);
    const int64_t waves = (rows * blocks + slots - 1) / slots;
    const int64_t cost = waves * (2 * rounds + 1);
    if (cost < best_cost) best = blocks, best_cost = cost;
  }
  // Multiprocessors without a block would idle: spread the tiles over them.
  const int64_t spread = chip.num_sms / rows;
  if (spread > best) best = int(spread < tiles ? spread : tiles);
  return best;
}

inline LaunchChoice choose_launch(const eft_step& step, LaunchStage stage, const Chip& chip,
                                  int64_t rows) {
  LaunchChoice c{};
  c.num_bf16_models = num_bf16_models_of(step, stage);
  c.conservative = step.conservative && stage != kModelNuclei;
  c.cluster = resident_cluster(step, stage, chip, rows);
  const int tiles = num_tiles_of(step);
  if (c.cluster) {
    c.blocks = c.cluster;
    c.shared_bytes = resident_bytes((tiles + c.cluster - 1) / c.cluster);
  } else {
    c.blocks = stream_blocks(stage == kModelNuclei ? 3 * rows : rows, tiles, chip);
    c.shared_bytes = int64_t(sizeof(RowWork));
  }
  return c;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CUDA_STEP_CHOOSE_H_
