#include "emulator/shadow_memory.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <vector>

#include "emulator/launch_state.h"

namespace cuda_host {

bool instrumented = false;

namespace {

bool unwritten_forbidden = false;

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

struct Watched {
  const void* start;
  size_t bytes;
  std::string name;
};

std::map<const char*, Region> regions;  // by their end
std::vector<Watched> watched;

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

// One byte of an access: whether that races, and what is kept of it.
void access_byte(Region& region, size_t i, const Access& now, bool write, const Thread& thread) {
  Cell& cell = region.cells[i];
  const char* byte = region.start + i;
  if (unwritten_forbidden && region.shared && !write && !cell.write.thread)
    report(region, byte, described(now, write) + ", which nobody has written");
  if (!(now.atomic && cell.write.atomic) && !ordered(cell.write, thread)) {
    report(region, byte,
           described(now, write) + " and " + described(cell.write, true) + " are not ordered");
  }
  if (!write) {
    const bool replaces = cell.reads[0].thread == now.thread || ordered(cell.reads[0], thread);
    cell.reads[replaces ? 0 : 1] = now;
    return;
  }
  for (const Access& read : cell.reads) {
    if (!ordered(read, thread)) {
      report(region, byte,
             described(now, true) + " and " + described(read, false) + " are not ordered");
    }
  }
  cell.write = now;
  cell.reads[0] = cell.reads[1] = {};
}

}  // namespace

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
  const size_t last = std::min(first + bytes, region->bytes);
  for (size_t i = first; i < last; ++i) access_byte(*region, i, now, write, *thread);
}

bool in_shared_memory(const void* at) {
  const Region* region = region_of(at);
  return region && region->shared;
}

bool detects_races() { return instrumented; }
void forbid_unwritten(bool forbid) { unwritten_forbidden = forbid; }

void watch(const void* start, size_t bytes, const char* name) {
  watched.push_back({start, bytes, name});
}
void unwatch() { watched.clear(); }

void forget_accesses() {
  regions.clear();
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

}  // namespace cuda_host
