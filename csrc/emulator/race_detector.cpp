#include "emulator/race_detector.h"

#include <algorithm>

#include "emulator/emulator_state.h"
#include "emulator/shadow_memory.h"

namespace simt {
namespace {

std::map<const void*, VectorClock> released;  // by atomics, at each address

void join_into(std::unique_ptr<VectorClock>& clock, const VectorClock& other) {
  if (!clock) clock = std::make_unique<VectorClock>();
  clock->join(other);
}

}  // namespace

void VectorClock::join(const VectorClock& other) {
  for (const auto& [block, epoch] : other.blocks) blocks[block] = std::max(blocks[block], epoch);
  for (const auto& [thread, clock] : other.threads)
    threads[thread] = std::max(threads[thread], clock);
}

void races_begin_launch() {
  released.clear();
  clear_shadow_memory();
}

void races_block_barrier(Block& block) {
  if (!instrumented) return;
  BlockHistory& history = block.history;
  ++history.epoch;
  bool dirty = false;
  for (Thread& thread : block.threads) {
    ThreadHistory& own = thread.history;
    dirty |= own.dirty;
    if (own.fenced)
      history.fenced_epoch = std::max(history.fenced_epoch, own.fenced->blocks[block.index]);
    if (own.acquired) history.acquired.join(*own.acquired);
    own.acquired.reset();
  }
  if (!dirty) history.fenced_epoch = history.epoch;  // each has fenced its writes
}

void races_cluster_barrier(Cluster& cluster) {
  if (!instrumented) return;
  uint32_t epoch = 0;
  VectorClock acquired;
  for (Block& block : cluster.blocks) {
    races_block_barrier(block);
    epoch = std::max(epoch, block.history.epoch);
    acquired.join(block.history.acquired);
  }
  for (Block& block : cluster.blocks) {
    if (block.history.fenced_epoch == block.history.epoch) block.history.fenced_epoch = epoch;
    block.history.epoch = epoch;
    block.history.acquired = acquired;
  }
}

void races_warp(Thread** lanes, int count) {
  if (!instrumented) return;
  std::array<uint32_t, 32> joined{};
  VectorClock acquired;
  for (int i = 0; i < count; ++i) {
    ThreadHistory& own = lanes[i]->history;
    ++own.warp[lanes[i]->index % 32];
    for (int l = 0; l < 32; ++l) joined[l] = std::max(joined[l], own.warp[l]);
    if (own.acquired) acquired.join(*own.acquired);
  }
  const bool any = !acquired.blocks.empty() || !acquired.threads.empty();
  for (int i = 0; i < count; ++i) {
    lanes[i]->history.warp = joined;
    if (any) join_into(lanes[i]->history.acquired, acquired);
  }
}

void races_fence(Thread& thread, bool whole_device) {
  if (!instrumented || !whole_device) return;
  ThreadHistory& own = thread.history;
  const Block& block = *thread.block;
  own.dirty = false;
  if (own.observed) join_into(own.acquired, *own.observed);
  own.observed.reset();
  VectorClock clock = block.history.acquired;
  if (own.acquired) clock.join(*own.acquired);
  for (const Block& other : block.cluster->blocks) clock.blocks[other.index] = own.cluster_epoch;
  clock.blocks[block.index] = block.history.epoch;
  const uint32_t first = own.number - thread.index % 32;
  ++own.warp[thread.index % 32];
  for (uint32_t l = 0; l < 32; ++l) clock.threads[first + l] = own.warp[l];
  own.fenced = std::make_unique<VectorClock>(std::move(clock));
}

void races_atomic(Thread& thread, const Site& site, const void* at, size_t bytes) {
  if (!instrumented) return;
  static std::map<std::pair<const char*, int>, Site> sites;
  ThreadHistory& own = thread.history;
  const bool dirty = own.dirty;
  access(at, bytes, true, true, &sites.try_emplace({site.file, site.line}, site).first->second);
  own.dirty = dirty;                 // an atomic needs no fence to be seen
  if (in_shared_memory(at)) return;  // flags in shared memory are not modelled
  VectorClock& clock = released[at];
  if (!clock.blocks.empty() || !clock.threads.empty()) join_into(own.observed, clock);
  if (own.fenced) clock.join(*own.fenced);
  const BlockHistory& history = thread.block->history;
  if (history.fenced_epoch) {
    uint32_t& epoch = clock.blocks[thread.block->index];
    epoch = std::max(epoch, history.fenced_epoch);
    clock.join(history.acquired);
  }
}

}  // namespace simt
