// State of the running launch, shared by the scheduler, the primitives and the race detector.
#ifndef EFT_EMULATOR_EMULATOR_STATE_H_
#define EFT_EMULATOR_EMULATOR_STATE_H_

#include <array>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "emulator/fiber.h"
#include "emulator/race_detector.h"
#include "emulator/simt_emulator.h"

namespace simt {

struct Block;
struct Cluster;

enum class Wait { kNone, kBlock, kWarp, kCluster, kEnded };

struct Thread {
  Block* block = nullptr;
  unsigned index = 0;  // in its block
  Fiber* fiber = nullptr;
  Wait wait = Wait::kNone;
  Site site{};               // the primitive that it waits in
  uint32_t mask = 0;         // of a warp primitive
  uint64_t contributed = 0;  // its value in a warp exchange
  bool orders_memory = false;
  std::array<uint64_t, 32> received{};  // the values of all lanes
  bool arrived = false;                 // at the cluster's barrier, and has not waited yet
  uint64_t arrived_phase = 0;
  uint64_t round_trips = 0;      // since the block's last barrier
  unsigned one_round_trips = 0;  // scopes that it is in
  bool trip_counted = false;     // of the outermost scope
  ThreadHistory history;
};

struct Block {
  Cluster* cluster = nullptr;
  unsigned index = 0, rank = 0;
  std::deque<Thread> threads;  // a deque: their addresses must not change
  char* shared = nullptr;      // exactly shared_bytes: AddressSanitizer sees the first byte past it
  unsigned alive = 0, waiting = 0;
  int votes = 0, last_votes = 0;
  Counts counts;
  bool has_ticket = false;
  BlockHistory history;
};

struct Cluster {
  std::deque<Block> blocks;
  unsigned alive = 0;  // threads
  unsigned arrived = 0;
  uint64_t phase = 0;
};

struct Emulator {
  const Launch* launch = nullptr;
  const std::function<void()>* body = nullptr;
  std::mt19937_64 random;
  unsigned order = 0;  // kind of order, chosen by the seed
  std::deque<Thread*> runnable;
  std::list<Cluster> clusters;
  Thread* running = nullptr;
  std::string error;
  uint64_t switches = 0;
  Counts longest;  // of the blocks that have ended
};

extern Emulator emulator;

inline void make_runnable(Thread& thread) {
  thread.wait = Wait::kNone;
  emulator.runnable.push_back(&thread);
}

// Switches to the scheduler; returns when it runs this thread again. Something must have made it
// runnable by then.
inline void suspend() { emulator.running->fiber->leave(false); }

// Lets other threads run first.
inline void yield() {
  make_runnable(*emulator.running);
  suspend();
}

std::string describe(const Site& site);

// What counts.cpp is told: an atomic, a barrier of all threads, the end of a block and of a launch.
void count_atomic(const void* at);
void end_section(Block& block);
void count_block(Block& block);
void count_launch();

}  // namespace simt
#endif  // EFT_EMULATOR_EMULATOR_STATE_H_
