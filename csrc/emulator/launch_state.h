// What the machine knows of the launch that runs; shared with what threads call and with the race
// detector.
#ifndef EFT_EMULATOR_LAUNCH_STATE_H_
#define EFT_EMULATOR_LAUNCH_STATE_H_

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

namespace cuda_host {

struct Block;
struct Cluster;

enum class Wait { kNothing, kBlock, kWarp, kCluster, kEnded };

struct Thread {
  Block* block = nullptr;
  unsigned index = 0;  // in its block
  Fiber* fiber = nullptr;
  Wait wait = Wait::kNothing;
  Site site{};        // of what it waits for
  uint32_t mask = 0;  // of a warp primitive
  uint64_t brought = 0;
  bool orders_memory = false;
  std::array<uint64_t, 32> lanes{};
  bool arrived = false;  // at the cluster's barrier, and has not waited yet
  uint64_t arrived_phase = 0;
  Known known;  // by the race detector
};

struct Block {
  Cluster* cluster = nullptr;
  unsigned index = 0, rank = 0;
  std::deque<Thread> threads;  // addresses must stay
  char* shared = nullptr;      // exactly shared_bytes: AddressSanitizer sees the first byte past it
  unsigned alive = 0, waiting = 0;
  int votes = 0, last_votes = 0;
  BlockHistory history;
};

struct Cluster {
  std::deque<Block> blocks;
  unsigned alive = 0;  // threads
  unsigned arrived = 0;
  uint64_t phase = 0;
};

struct Machine {
  const Launch* launch = nullptr;
  const std::function<void()>* body = nullptr;
  std::mt19937_64 random;
  unsigned order = 0;  // which kind of order this seed has
  std::deque<Thread*> runnable;
  std::list<Cluster> clusters;
  Thread* running = nullptr;
  std::string error;
  uint64_t switches = 0;
};

extern Machine machine;

inline void make_runnable(Thread& thread) {
  thread.wait = Wait::kNothing;
  machine.runnable.push_back(&thread);
}

// Gives the turn to another thread; comes back when this one is chosen again.
inline void give_turn() { machine.running->fiber->leave(false); }

inline void yield() {
  make_runnable(*machine.running);
  give_turn();
}

std::string described(const Site& site);

}  // namespace cuda_host
#endif  // EFT_EMULATOR_LAUNCH_STATE_H_
