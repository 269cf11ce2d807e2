// Primitives that a kernel's threads call: barriers, warp exchanges, atomics, clusters. Each may
// switch to another thread, and each names a wrong call.
#include <string.h>

#include <algorithm>

#include "emulator/emulator_state.h"

namespace simt {

void fail(const Site& site, const std::string& message) {
  const Thread& thread = *emulator.running;
  fail(describe(site) + " in block " + std::to_string(thread.block->index) + " thread " +
       std::to_string(thread.index) + ": " + message);
}

Votes block_barrier(const Site& site, bool vote) {
  Thread& thread = *emulator.running;
  Block& block = *thread.block;
  thread.wait = Wait::kBlock;
  thread.site = site;
  block.votes += vote;
  if (++block.waiting < block.threads.size()) {
    suspend();
  } else {
    for (Thread& other : block.threads) {
      if (other.site.line != site.line || strcmp(other.site.file, site.file) != 0) {
        fail(site, "thread " + std::to_string(other.index) + " of this block is at " +
                       describe(other.site));
      }
    }
    block.last_votes = block.votes;
    block.votes = 0;
    block.waiting = 0;
    races_block_barrier(block);
    end_section(block);
    ++block.counts.finish.block_barriers;
    for (Thread& other : block.threads) make_runnable(other);
    suspend();
  }
  return {block.last_votes, int(block.threads.size())};
}

unsigned lane() { return emulator.running->index % 32; }

namespace {

// Returns true if a lane of the mask has arrived at the same call. Fails if it never will.
bool has_arrived(const Site& site, const Thread& thread, const Thread& other) {
  const auto name = [&] { return "lane " + std::to_string(other.index % 32); };
  if (other.wait == Wait::kEnded) fail(site, name() + " of the mask has ended");
  if (other.wait != Wait::kWarp) return false;
  if (other.site.line == site.line && other.site.what == site.what &&
      strcmp(other.site.file, site.file) == 0 && other.mask == thread.mask) {
    return true;
  }
  if (other.mask >> lane() & 1 || other.mask == thread.mask) {
    fail(site, "diverged: " + name() + " waits for this one at " + describe(other.site));
  }
  return false;
}

}  // namespace

const uint64_t* warp_exchange(const Site& site, uint32_t mask, uint64_t value, bool orders_memory) {
  Thread& thread = *emulator.running;
  Block& block = *thread.block;
  const unsigned first = thread.index - lane();
  if (!(mask >> lane() & 1)) fail(site, "the calling lane is not in the mask");
  thread.wait = Wait::kWarp;
  thread.site = site;
  thread.mask = mask;
  thread.contributed = value;
  thread.orders_memory = orders_memory;
  Thread* lanes[32];
  int count = 0;
  bool complete = true;
  for (unsigned l = 0; l < 32; ++l) {
    if (!(mask >> l & 1)) continue;
    if (first + l >= block.threads.size())
      fail(site, "lane " + std::to_string(l) + " of the mask does not exist");
    lanes[count++] = &block.threads[first + l];
    complete &= has_arrived(site, thread, *lanes[count - 1]);
  }
  if (complete) {
    if (orders_memory) races_warp(lanes, count);
    for (int i = 0; i < count; ++i) {
      for (int j = 0; j < count; ++j)
        lanes[i]->received[lanes[j]->index % 32] = lanes[j]->contributed;
    }
    for (int i = 0; i < count; ++i) make_runnable(*lanes[i]);
  }
  suspend();
  return thread.received.data();
}

namespace {

// Returns the value that an atomic writes over `found`.
uint64_t apply(Op op, size_t bytes, uint64_t found, uint64_t value, uint64_t compare) {
  const auto as_signed = [&](uint64_t x) { return bytes == 4 ? int64_t(int32_t(x)) : int64_t(x); };
  switch (op) {
    case Op::kAdd: return found + value;
    case Op::kMax: return std::max(found, value);
    case Op::kMin: return std::min(found, value);
    case Op::kMaxSigned: return as_signed(found) > as_signed(value) ? found : value;
    case Op::kMinSigned: return as_signed(found) < as_signed(value) ? found : value;
    case Op::kAnd: return found & value;
    case Op::kOr: return found | value;
    case Op::kXor: return found ^ value;
    case Op::kExch: return value;
    case Op::kCas: return found == compare ? value : found;
    case Op::kAddFloat: break;
  }
  const uint32_t low[2] = {uint32_t(found), uint32_t(value)};
  float x[2];
  memcpy(x, low, sizeof x);
  x[0] += x[1];
  uint64_t sum = 0;
  memcpy(&sum, x, sizeof(float));
  return sum;
}

}  // namespace

uint64_t atomic(const Site& site, void* at, size_t bytes, Op op, uint64_t value, uint64_t compare) {
  if (reinterpret_cast<uintptr_t>(at) % bytes) fail(site, "the address is not aligned");
  yield();
  races_atomic(*emulator.running, site, at, bytes);
  count_atomic(at);
  uint64_t found = 0;
  memcpy(&found, at, bytes);
  const uint64_t next = apply(op, bytes, found, value, compare);
  memcpy(at, &next, bytes);
  return found;
}

void fence(bool whole_device) { races_fence(*emulator.running, whole_device); }

void* shared_memory() { return emulator.running->block->shared; }
size_t shared_bytes() { return emulator.launch->shared_bytes; }
unsigned cluster_rank() { return emulator.running->block->rank; }
unsigned cluster_size() { return emulator.launch->cluster; }

void cluster_arrive(const Site& site) {
  Thread& thread = *emulator.running;
  Cluster& cluster = *thread.block->cluster;
  if (thread.arrived) fail(site, "arrives twice without a wait");
  thread.arrived = true;
  thread.arrived_phase = cluster.phase;
  if (++cluster.arrived < emulator.launch->cluster * emulator.launch->threads) return;
  cluster.arrived = 0;
  ++cluster.phase;
  races_cluster_barrier(cluster);
  for (Block& block : cluster.blocks) {
    ++block.counts.finish.cluster_barriers;
    for (Thread& other : block.threads) {
      if (other.wait == Wait::kCluster) make_runnable(other);
    }
  }
}

void cluster_wait(const Site& site) {
  Thread& thread = *emulator.running;
  if (!thread.arrived) fail(site, "waits without having arrived");
  if (thread.block->cluster->phase == thread.arrived_phase) {
    thread.wait = Wait::kCluster;
    thread.site = site;
    suspend();
  } else {
    yield();
  }
  thread.arrived = false;
  thread.history.cluster_epoch = thread.block->history.epoch;
}

void* map_shared(const Site& site, const void* at, unsigned rank) {
  Block& block = *emulator.running->block;
  if (rank >= block.cluster->blocks.size())
    fail(site, "rank " + std::to_string(rank) + " is not in the cluster");
  const ptrdiff_t offset = static_cast<const char*>(at) - block.shared;
  if (offset < 0 || size_t(offset) > emulator.launch->shared_bytes)
    fail(site, "not an address of this block's shared memory");
  return block.cluster->blocks[rank].shared + offset;
}

}  // namespace simt
