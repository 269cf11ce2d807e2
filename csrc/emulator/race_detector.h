// A happens-before race detector. Kernels are compiled with -fsanitize=thread: the compiler's calls
// before every access arrive in tsan_hooks.cpp, and shadow_memory.cpp keeps the last accesses to
// each byte. Two accesses to one byte, one of them a write, must be ordered by
//   - a barrier of the block or the cluster between them, or __syncwarp within a warp;
//   - between blocks, a fence and an atomic of the one, then an atomic and a fence of the other.
// Shuffles and votes order nothing, as in CUDA's memory model. Watched are the shared memory of
// every block and the ranges given to `watch`.
#ifndef EFT_EMULATOR_RACE_DETECTOR_H_
#define EFT_EMULATOR_RACE_DETECTOR_H_

#include <stddef.h>
#include <stdint.h>

#include <array>
#include <map>
#include <memory>

namespace simt {

struct Site;
struct Block;
struct Cluster;
struct Thread;

// Accesses that happened before: of a block, those before its epoch; of a thread, those before its
// clock.
struct VectorClock {
  std::map<uint32_t, uint32_t> blocks;
  std::map<uint32_t, uint32_t> threads;
  void join(const VectorClock& other);
};

// The detector's state of a thread.
struct ThreadHistory {
  uint32_t number = 0;              // in the launch, from 1
  std::array<uint32_t, 32> warp{};  // clocks of the warp's lanes, its own among them
  uint32_t cluster_epoch = 0;       // the block's epoch when it last left a barrier of the cluster
  bool dirty = false;               // has written to global memory since its last fence
  std::unique_ptr<VectorClock> fenced;    // what its last fence covers
  std::unique_ptr<VectorClock> observed;  // found by atomics, not yet behind a fence
  std::unique_ptr<VectorClock> acquired;  // happened before what it does now
};

// The detector's state of a block.
struct BlockHistory {
  uint32_t epoch = 1;         // barriers passed
  uint32_t fenced_epoch = 0;  // accesses before this epoch are behind a fence
  VectorClock acquired;
};

// True in a program whose kernels are compiled for the detector.
bool detects_races();

// Makes reading shared memory that nobody has written an error too. Off by default, since copying a
// structure reads unused fields.
void forbid_unwritten(bool forbid);

// Watches a range of global memory in the launches that follow, until `unwatch`.
void watch(const void* start, size_t bytes, const char* name);
void unwatch();

// Called by the scheduler and the primitives.
void races_begin_launch();
void races_begin_block(const Block& block, size_t bytes);
void races_end_block(const Block& block);   // its shared memory must not be accessed any more
void races_free_block(const Block& block);  // its shared memory is about to be freed
void races_block_barrier(Block& block);
void races_cluster_barrier(Cluster& cluster);
void races_warp(Thread** lanes, int count);
void races_fence(Thread& thread, bool whole_device);
void races_atomic(Thread& thread, const Site& site, const void* at, size_t bytes);

}  // namespace simt
#endif  // EFT_EMULATOR_RACE_DETECTOR_H_
