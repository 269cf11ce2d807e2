#include "emulator/race_detector.h"

#include <algorithm>

#include "emulator/launch_state.h"
#include "emulator/shadow_memory.h"

namespace cuda_host {
namespace {

std::map<const void*, View> locations;  // what atomics left behind

void join_into(std::unique_ptr<View>& mine, const View& other) {
  if (!mine) mine = std::make_unique<View>();
  mine->join(other);
}

}  // namespace

void View::join(const View& other) {
  for (const auto& [block, epoch] : other.blocks) blocks[block] = std::max(blocks[block], epoch);
  for (const auto& [thread, clock] : other.threads)
    threads[thread] = std::max(threads[thread], clock);
}

void races_start() {
  locations.clear();
  forget_accesses();
}

void races_block_barrier(Block& block) {
  if (!instrumented) return;
  BlockHistory& history = block.history;
  ++history.epoch;
  bool dirty = false;
  for (Thread& thread : block.threads) {
    Known& known = thread.known;
    dirty |= known.dirty;
    if (known.fenced)
      history.covered = std::max(history.covered, known.fenced->blocks[block.index]);
    if (known.acquired) history.acquired.join(*known.acquired);
    known.acquired.reset();
  }
  if (!dirty) history.covered = history.epoch;  // each has fenced its writes
}

void races_cluster_barrier(Cluster& cluster) {
  if (!instrumented) return;
  uint32_t epoch = 0;
  View acquired;
  for (Block& block : cluster.blocks) {
    races_block_barrier(block);
    epoch = std::max(epoch, block.history.epoch);
    acquired.join(block.history.acquired);
  }
  for (Block& block : cluster.blocks) {
    if (block.history.covered == block.history.epoch) block.history.covered = epoch;
    block.history.epoch = epoch;
    block.history.acquired = acquired;
  }
}

void races_warp(Thread** lanes, int count) {
  if (!instrumented) return;
  std::array<uint32_t, 32> joined{};
  View acquired;
  for (int i = 0; i < count; ++i) {
    Known& known = lanes[i]->known;
    ++known.warp[lanes[i]->index % 32];
    for (int l = 0; l < 32; ++l) joined[l] = std::max(joined[l], known.warp[l]);
    if (known.acquired) acquired.join(*known.acquired);
  }
  const bool any = !acquired.blocks.empty() || !acquired.threads.empty();
  for (int i = 0; i < count; ++i) {
    lanes[i]->known.warp = joined;
    if (any) join_into(lanes[i]->known.acquired, acquired);
  }
}

void races_fence(Thread& thread, bool whole_device) {
  if (!instrumented || !whole_device) return;
  Known& known = thread.known;
  const Block& block = *thread.block;
  known.dirty = false;
  if (known.read) join_into(known.acquired, *known.read);
  known.read.reset();
  View view = block.history.acquired;
  if (known.acquired) view.join(*known.acquired);
  for (const Block& other : block.cluster->blocks) view.blocks[other.index] = known.cluster_epoch;
  view.blocks[block.index] = block.history.epoch;
  const uint32_t first = known.number - thread.index % 32;
  ++known.warp[thread.index % 32];
  for (uint32_t l = 0; l < 32; ++l) view.threads[first + l] = known.warp[l];
  known.fenced = std::make_unique<View>(std::move(view));
}

void races_atomic(Thread& thread, const Site& site, const void* at, size_t bytes) {
  if (!instrumented) return;
  static std::map<std::pair<const char*, int>, Site> sites;
  const bool dirty = thread.known.dirty;
  access(at, bytes, true, true, &sites.try_emplace({site.file, site.line}, site).first->second);
  thread.known.dirty = dirty;        // an atomic needs no fence to be seen
  if (in_shared_memory(at)) return;  // flags in shared memory are not modelled
  View& location = locations[at];
  if (!location.blocks.empty() || !location.threads.empty()) join_into(thread.known.read, location);
  if (thread.known.fenced) location.join(*thread.known.fenced);
  const BlockHistory& history = thread.block->history;
  if (history.covered) {
    uint32_t& epoch = location.blocks[thread.block->index];
    epoch = std::max(epoch, history.covered);
    location.join(history.acquired);
  }
}

}  // namespace cuda_host
