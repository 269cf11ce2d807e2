#include "emulator/shadow_memory.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <vector>

#include "emulator/emulator_state.h"

namespace simt {

bool instrumented = false;

namespace {

bool forbids_unwritten = false;

struct Access {
  uint32_t thread = 0;  // its number in the launch; 0: no access yet
  uint32_t epoch = 0, clock = 0;
  bool atomic = false;
  const void* pc = nullptr;  // an atomic's: its Site
};

struct ShadowByte {  // of one byte: its last write, and the reads since
  Access write, reads[2];
};

struct Region {  // of memory that is watched in this launch
  const char* start;
  size_t bytes;
  std::string name;
  bool shared = false, ended = false;
  std::vector<ShadowByte> shadow;
};

struct WatchedRange {
  const void* start;
  size_t bytes;
  std::string name;
};

std::map<const char*, Region> regions;  // by end address
std::vector<WatchedRange> watched;

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
  region = {at, bytes, std::move(name), shared, false, std::vector<ShadowByte>(bytes)};
}

unsigned block_of(const Access& a) { return (a.thread - 1) / emulator.launch->threads; }
unsigned lane_of(const Access& a) { return (a.thread - 1) % emulator.launch->threads % 32; }
unsigned warp_of(const Access& a) { return (a.thread - 1) % emulator.launch->threads / 32; }

bool covers(const VectorClock& clock, const Access& a) {
  const auto block = clock.blocks.find(block_of(a));
  if (block != clock.blocks.end() && block->second > a.epoch) return true;
  const auto thread = clock.threads.find(a.thread);
  return thread != clock.threads.end() && thread->second > a.clock;
}

// Returns true if `before` is ordered before what the thread does now.
bool happens_before(const Access& before, const Thread& now) {
  const ThreadHistory& own = now.history;
  const Block& block = *now.block;
  if (!before.thread || before.thread == own.number) return true;
  const unsigned other = block_of(before);
  if (other == block.index) {
    if (before.epoch < block.history.epoch) return true;
    if (warp_of(before) == now.index / 32 && own.warp[lane_of(before)] > before.clock) return true;
  } else if (other / emulator.launch->cluster == block.index / emulator.launch->cluster) {
    if (before.epoch < own.cluster_epoch) return true;
  }
  return covers(block.history.acquired, before) || (own.acquired && covers(*own.acquired, before));
}

// Returns "stream.cuh:12" if addr2line and debug information exist, else an address.
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
  line[strcspn(line, " \n")] = 0;  // without a discriminator
  if (line[0] && line[0] != '?') return line;
  snprintf(line, sizeof line, "0x%zx", offset);
  return line;
}

std::string describe(const Access& a, bool write) {
  return std::string(a.atomic ? "atomic"
                     : write  ? "write"
                              : "read") +
         " by block " + std::to_string(block_of(a)) + " thread " +
         std::to_string((a.thread - 1) % emulator.launch->threads) + " at " + source_of(a.pc);
}

[[noreturn]] void report_race(const Region& region, const char* at, const std::string& what) {
  // No exception may pass here: the compiler assumes that its own calls do not throw.
  abort_launch("race: byte " + std::to_string(at - region.start) + " of " + region.name + ": " +
               what);
}

// Checks one byte of an access for a race, then records it.
void access_byte(Region& region, size_t i, const Access& now, bool write, const Thread& thread) {
  ShadowByte& shadow = region.shadow[i];
  const char* byte = region.start + i;
  if (forbids_unwritten && region.shared && !write && !shadow.write.thread)
    report_race(region, byte, describe(now, write) + ", which nobody has written");
  if (!(now.atomic && shadow.write.atomic) && !happens_before(shadow.write, thread)) {
    report_race(region, byte,
                describe(now, write) + " and " + describe(shadow.write, true) + " are not ordered");
  }
  if (!write) {
    const bool replaces =
        shadow.reads[0].thread == now.thread || happens_before(shadow.reads[0], thread);
    shadow.reads[replaces ? 0 : 1] = now;
    return;
  }
  for (const Access& read : shadow.reads) {
    if (!happens_before(read, thread)) {
      report_race(region, byte,
                  describe(now, true) + " and " + describe(read, false) + " are not ordered");
    }
  }
  shadow.write = now;
  shadow.reads[0] = shadow.reads[1] = {};
}

}  // namespace

void access(const void* address, size_t bytes, bool write, bool atomic, const void* pc) {
  Thread* thread = emulator.running;
  if (!thread) return;
  Region* region = region_of(address);
  if (!region) return;
  const char* at = static_cast<const char*>(address);
  const Access now = {thread->history.number, thread->block->history.epoch,
                      thread->history.warp[thread->index % 32], atomic, pc};
  if (region->ended) report_race(*region, at, describe(now, write) + " after its block has ended");
  if (!region->shared && write) thread->history.dirty = true;
  const size_t first = size_t(at - region->start);
  const size_t last = std::min(first + bytes, region->bytes);
  for (size_t i = first; i < last; ++i) access_byte(*region, i, now, write, *thread);
}

bool in_shared_memory(const void* at) {
  const Region* region = region_of(at);
  return region && region->shared;
}

bool detects_races() { return instrumented; }
void forbid_unwritten(bool forbid) { forbids_unwritten = forbid; }

void watch(const void* start, size_t bytes, const char* name) {
  watched.push_back({start, bytes, name});
}
void unwatch() { watched.clear(); }

void clear_shadow_memory() {
  regions.clear();
  if (!instrumented) return;
  for (const WatchedRange& w : watched) add_region(w.start, w.bytes, w.name, false);
}

void races_begin_block(const Block& block, size_t bytes) {
  if (!instrumented) return;
  add_region(block.shared, bytes, "shared memory of block " + std::to_string(block.index), true);
}

void races_end_block(const Block& block) {
  if (!instrumented) return;
  if (Region* region = region_of(block.shared)) region->ended = true;
}

void races_free_block(const Block& block) {
  if (!instrumented) return;
  regions.erase(block.shared + emulator.launch->shared_bytes);
}

}  // namespace simt
