// A happens-before detector for what a kernel reads and writes. The kernel is compiled with
// -fsanitize=thread, whose calls before every access arrive here (tsan.cpp, then accesses.cpp) and
// not in a runtime of threads. Two accesses to one byte, one of them a write, must be ordered by
//   - a barrier of the block or the cluster between them, or __syncwarp within a warp;
//   - between blocks, a fence and an atomic of the one, then an atomic and a fence of the other.
// Shuffles and votes order nothing, as CUDA has it. Watched are the shared memory of every block
// and what `watch` names.
#ifndef EFT_EMULATOR_RACE_DETECTOR_H_
#define EFT_EMULATOR_RACE_DETECTOR_H_

#include <stddef.h>
#include <stdint.h>

#include <array>
#include <map>
#include <memory>

namespace cuda_host {

struct Site;
struct Block;
struct Cluster;
struct Thread;

// Which accesses of others happened before: of a block those before a barrier's number, of a thread
// those before its clock.
struct View {
  std::map<uint32_t, uint32_t> blocks;
  std::map<uint32_t, uint32_t> threads;
  void join(const View& other);
};

// What the detector keeps for a thread.
struct Known {
  uint32_t number = 0;              // in the launch, from 1
  std::array<uint32_t, 32> warp{};  // clocks of the warp's lanes, its own among them
  uint32_t cluster_epoch = 0;       // the block's epoch when it last left a barrier of the cluster
  bool dirty = false;               // has written to global memory since its last fence
  std::unique_ptr<View> fenced;     // what its last fence covers
  std::unique_ptr<View> read;       // what atomics found, not yet behind a fence
  std::unique_ptr<View> acquired;   // what is known to have happened before
};

// What it keeps for a block.
struct BlockHistory {
  uint32_t epoch = 1;    // barriers passed
  uint32_t covered = 0;  // accesses before this epoch are behind a fence
  View acquired;
};

// True in a program whose kernels are compiled for the detector.
bool detects_races();

// Whether reading shared memory that nobody has written is an error too. Off, since a copy of a
// structure reads fields that do not matter.
void forbid_unwritten(bool forbid);

// Global memory to watch in the launches that follow, until `unwatch`.
void watch(const void* start, size_t bytes, const char* name);
void unwatch();

// Called by the machine.
void races_start();
void races_shared(const Block& block, size_t bytes);
void races_shared_ends(const Block& block);
void races_forget(const Block& block);
void races_block_barrier(Block& block);
void races_cluster_barrier(Cluster& cluster);
void races_warp(Thread** lanes, int count);
void races_fence(Thread& thread, bool whole_device);
void races_atomic(Thread& thread, const Site& site, const void* at, size_t bytes);

}  // namespace cuda_host
#endif  // EFT_EMULATOR_RACE_DETECTOR_H_
