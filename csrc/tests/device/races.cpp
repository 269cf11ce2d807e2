#include "tests/device/races.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "tests/device/machine_state.h"

namespace cuda_host {
namespace {

bool instrumented = false, unwritten_forbidden = false;

struct Access {
  uint32_t thread = 0;  // 0: none
  uint32_t epoch = 0, clock = 0;
  bool atomic = false;
  const void* pc = nullptr;  // of an atomic: its Site
};

struct Cell {  // of one byte
  Access write, reads[2];
};

struct Region {
  const char* start;
  size_t bytes;
  std::string name;
  bool shared = false, ended = false;
  std::vector<Cell> cells;
};

std::map<const char*, Region> regions;  // by their end
std::map<const void*, View> locations;  // what atomics left behind

Region* region_of(const void* at) {
  const char* address = static_cast<const char*>(at);
  const auto found = regions.upper_bound(address);
  if (found == regions.end() || address < found->second.start) return nullptr;
  return &found->second;
}

void add_region(const void* start, size_t bytes, std::string name, bool shared) {
  if (!bytes) return;
  const char* at = static_cast<const char*>(start);
  Region& region = regions[at + bytes];
  region = {at, bytes, std::move(name), shared, false, std::vector<Cell>(bytes)};
}

unsigned block_of(const Access& a) { return (a.thread - 1) / machine.launch->threads; }
unsigned lane_of(const Access& a) { return (a.thread - 1) % machine.launch->threads % 32; }
unsigned warp_of(const Access& a) { return (a.thread - 1) % machine.launch->threads / 32; }

bool seen(const View& view, const Access& a) {
  const auto block = view.blocks.find(block_of(a));
  if (block != view.blocks.end() && block->second > a.epoch) return true;
  const auto thread = view.threads.find(a.thread);
  return thread != view.threads.end() && thread->second > a.clock;
}

bool ordered(const Access& before, const Thread& now) {
  const Known& known = now.known;
  const Block& block = *now.block;
  if (!before.thread || before.thread == known.number) return true;
  const unsigned other = block_of(before);
  if (other == block.index) {
    if (before.epoch < block.history.epoch) return true;
    if (warp_of(before) == now.index / 32 && known.warp[lane_of(before)] > before.clock)
      return true;
  } else if (other / machine.launch->cluster == block.index / machine.launch->cluster) {
    if (before.epoch < known.cluster_epoch) return true;
  }
  return seen(block.history.acquired, before) || (known.acquired && seen(*known.acquired, before));
}

// "kernel.h:12" where addr2line and debug information exist, else an address.
std::string source_of(const void* pc) {
  Dl_info info{};
  if (!dladdr(pc, &info) || !info.dli_fname) return "?";
  char command[1024], line[512] = "";
  const size_t offset = size_t(static_cast<const char*>(pc) - static_cast<char*>(info.dli_fbase));
  snprintf(command, sizeof command, "addr2line -se '%s' 0x%zx 2>/dev/null", info.dli_fname,
           offset - 1);
  if (FILE* pipe = popen(command, "r")) {
    if (!fgets(line, sizeof line, pipe)) line[0] = 0;
    pclose(pipe);
  }
  line[strcspn(line, "\n")] = 0;
  if (line[0] && line[0] != '?') return line;
  snprintf(line, sizeof line, "0x%zx", offset);
  return line;
}

std::string described(const Access& a, bool write) {
  return std::string(a.atomic ? "atomic"
                     : write  ? "write"
                              : "read") +
         " by block " + std::to_string(block_of(a)) + " thread " +
         std::to_string((a.thread - 1) % machine.launch->threads) + " at " + source_of(a.pc);
}

[[noreturn]] void report(const Region& region, const char* at, const std::string& what) {
  // The compiler takes its calls here for functions that do not throw.
  give_up("race: byte " + std::to_string(at - region.start) + " of " + region.name + ": " + what);
}

void access(const void* address, size_t bytes, bool write, bool atomic, const void* pc) {
  Thread* thread = machine.running;
  if (!thread) return;
  Region* region = region_of(address);
  if (!region) return;
  const char* at = static_cast<const char*>(address);
  const Access now = {thread->known.number, thread->block->history.epoch,
                      thread->known.warp[thread->index % 32], atomic, pc};
  if (region->ended) report(*region, at, described(now, write) + " after its block has ended");
  if (!region->shared && write) thread->known.dirty = true;
  const size_t first = size_t(at - region->start);
  for (size_t i = first; i < std::min(first + bytes, region->bytes); ++i) {
    Cell& cell = region->cells[i];
    const char* byte = region->start + i;
    if (unwritten_forbidden && region->shared && !write && !cell.write.thread)
      report(*region, byte, described(now, write) + ", which nobody has written");
    if (!(atomic && cell.write.atomic) && !ordered(cell.write, *thread)) {
      report(*region, byte,
             described(now, write) + " and " + described(cell.write, true) + " are not ordered");
    }
    if (!write) {
      if (cell.reads[0].thread == now.thread || ordered(cell.reads[0], *thread)) {
        cell.reads[0] = now;
      } else {
        cell.reads[1] = now;
      }
      continue;
    }
    for (const Access& read : cell.reads) {
      if (!ordered(read, *thread)) {
        report(*region, byte,
               described(now, true) + " and " + described(read, false) + " are not ordered");
      }
    }
    cell.write = now;
    cell.reads[0] = cell.reads[1] = {};
  }
}

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

bool detects_races() { return instrumented; }
void forbid_unwritten(bool forbid) { unwritten_forbidden = forbid; }

namespace {
struct Watched {
  const void* start;
  size_t bytes;
  std::string name;
};
std::vector<Watched> watched;
}  // namespace

void watch(const void* start, size_t bytes, const char* name) {
  watched.push_back({start, bytes, name});
}
void unwatch() { watched.clear(); }

void races_start() {
  regions.clear();
  locations.clear();
  if (!instrumented) return;
  for (const Watched& w : watched) add_region(w.start, w.bytes, w.name, false);
}

void races_shared(const Block& block, size_t bytes) {
  if (!instrumented) return;
  add_region(block.shared, bytes, "shared memory of block " + std::to_string(block.index), true);
}

void races_shared_ends(const Block& block) {
  if (!instrumented) return;
  if (Region* region = region_of(block.shared)) region->ended = true;
}

void races_forget(const Block& block) {
  if (!instrumented) return;
  regions.erase(block.shared + machine.launch->shared_bytes);
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
  thread.known.dirty = dirty;  // an atomic needs no fence to be seen
  const Region* region = region_of(at);
  if (region && region->shared) return;  // flags in shared memory are not modelled
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

// The compiler's calls.
#define EFT_HOOK extern "C" __attribute__((visibility("default"))) void
#define EFT_ACCESS(suffix, bytes)                                            \
  EFT_HOOK __tsan_read##suffix(const void* at) {                             \
    cuda_host::access(at, bytes, false, false, __builtin_return_address(0)); \
  }                                                                          \
  EFT_HOOK __tsan_write##suffix(const void* at) {                            \
    cuda_host::access(at, bytes, true, false, __builtin_return_address(0));  \
  }                                                                          \
  EFT_HOOK __tsan_volatile_read##suffix(const void* at) {                    \
    cuda_host::access(at, bytes, false, false, __builtin_return_address(0)); \
  }                                                                          \
  EFT_HOOK __tsan_volatile_write##suffix(const void* at) {                   \
    cuda_host::access(at, bytes, true, false, __builtin_return_address(0));  \
  }                                                                          \
  EFT_HOOK __tsan_unaligned_read##suffix(const void* at) {                   \
    cuda_host::access(at, bytes, false, false, __builtin_return_address(0)); \
  }                                                                          \
  EFT_HOOK __tsan_unaligned_write##suffix(const void* at) {                  \
    cuda_host::access(at, bytes, true, false, __builtin_return_address(0));  \
  }
EFT_ACCESS(1, 1)
EFT_ACCESS(2, 2)
EFT_ACCESS(4, 4)
EFT_ACCESS(8, 8)
EFT_ACCESS(16, 16)
EFT_HOOK __tsan_read_range(const void* at, size_t bytes) {
  cuda_host::access(at, bytes, false, false, __builtin_return_address(0));
}
EFT_HOOK __tsan_write_range(const void* at, size_t bytes) {
  cuda_host::access(at, bytes, true, false, __builtin_return_address(0));
}
extern "C" __attribute__((visibility("default"))) void* __tsan_memcpy(void* to, const void* from,
                                                                      size_t bytes) {
  cuda_host::access(from, bytes, false, false, __builtin_return_address(0));
  cuda_host::access(to, bytes, true, false, __builtin_return_address(0));
  return memcpy(to, from, bytes);
}
extern "C" __attribute__((visibility("default"))) void* __tsan_memset(void* to, int byte,
                                                                      size_t bytes) {
  cuda_host::access(to, bytes, true, false, __builtin_return_address(0));
  return memset(to, byte, bytes);
}
EFT_HOOK __tsan_init() { cuda_host::instrumented = true; }
EFT_HOOK __tsan_func_entry(void*) {}
EFT_HOOK __tsan_func_exit() {}
EFT_HOOK __tsan_vptr_update(void**, void*) {}
EFT_HOOK __tsan_vptr_read(void**) {}
