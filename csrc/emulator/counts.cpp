// Counts the steps of a block that wait for one another.
#include <algorithm>

#include "emulator/emulator_state.h"

namespace simt {

Counts counts;

namespace {

bool is_shared(const Cluster& cluster, const void* at) {
  for (const Block& block : cluster.blocks) {
    const uintptr_t offset = reinterpret_cast<uintptr_t>(at) - uintptr_t(block.shared);
    if (offset < emulator.launch->shared_bytes) return true;
  }
  return false;
}

Path operator+(const Path& x, const Path& y) {
  return {x.block_barriers + y.block_barriers, x.cluster_barriers + y.cluster_barriers,
          x.round_trips + y.round_trips};
}

bool is_longer(const Counts& x, const Counts& y) {
  const Path a = x.read + x.finish, b = y.read + y.finish;
  return a.block_barriers != b.block_barriers ? a.block_barriers > b.block_barriers
                                              : a.round_trips > b.round_trips;
}

}  // namespace

void count_load() {
  Thread& thread = *emulator.running;
  if (thread.one_round_trips && thread.trip_counted) return;
  thread.trip_counted = true;
  ++thread.round_trips;
}

void begin_one_round_trip() {
  Thread& thread = *emulator.running;
  if (thread.one_round_trips++ == 0) thread.trip_counted = false;
}

void end_one_round_trip() { --emulator.running->one_round_trips; }

void count_atomic(const void* at) {
  Thread& thread = *emulator.running;
  Block& block = *thread.block;
  if (is_shared(*block.cluster, at)) return;
  if (!block.has_ticket) {
    block.has_ticket = true;
    block.counts.read = block.counts.finish;
    block.counts.read.round_trips += thread.round_trips;
    block.counts.finish = {};
    thread.round_trips = 0;
  }
  count_load();
}

void end_section(Block& block) {
  uint64_t most = 0;
  for (Thread& thread : block.threads) {
    most = std::max(most, thread.round_trips);
    thread.round_trips = 0;
  }
  block.counts.finish.round_trips += most;
}

void count_block(Block& block) {
  end_section(block);
  if (is_longer(block.counts, emulator.longest)) emulator.longest = block.counts;
}

void count_launch() {
  counts.read = counts.read + emulator.longest.read;
  counts.finish = counts.finish + emulator.longest.finish;
}

}  // namespace simt
