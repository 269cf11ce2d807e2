#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "emulator/asan.h"
#include "emulator/cuda_device.h"
#include "emulator/launch_state.h"
#include "emulator/simt_emulator.h"

cuda_host::Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_host {

Machine machine;
uint64_t loaded_bytes = 0;

namespace {

constexpr size_t kMostFibers = 8192;  // two mappings each, and two builds of this in a process

std::vector<std::unique_ptr<Fiber>> idle_fibers;

Dim3 place(unsigned index, const Dim3& grid) {
  return {index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y};
}

void thread_ends() {
  Thread& thread = *machine.running;
  Block& block = *thread.block;
  thread.wait = Wait::kEnded;
  --block.cluster->alive;
  if (--block.alive == 0) {
    races_shared_ends(block);
    ASAN_POISON_MEMORY_REGION(block.shared, machine.launch->shared_bytes);
  }
}

void fiber_main() {
  try {
    (*machine.body)();
    thread_ends();
  } catch (const Error& error) {
    machine.error = error.what();
  }
  machine.running->fiber->leave(true);
}

void start_block(Block& block) {
  const Launch& launch = *machine.launch;
  void* at = nullptr;
  if (posix_memalign(&at, 128, std::max<size_t>(launch.shared_bytes, 1)) != 0) abort();
  block.shared = static_cast<char*>(at);
  // Whatever ran before left something there.
  for (size_t i = 0; i < launch.shared_bytes; ++i) block.shared[i] = char(machine.random() >> 56);
  races_shared(block, launch.shared_bytes);
  block.alive = launch.threads;
  for (unsigned t = 0; t < launch.threads; ++t) {
    Thread& thread = block.threads.emplace_back();
    thread.block = &block;
    thread.index = t;
    thread.known.number = block.index * launch.threads + t + 1;
    thread.known.warp[t % 32] = 1;
    if (idle_fibers.empty()) idle_fibers.push_back(std::make_unique<Fiber>());
    thread.fiber = idle_fibers.back().release();
    idle_fibers.pop_back();
    thread.fiber->prepare(fiber_main);
    make_runnable(thread);
  }
}

void end_cluster(Cluster& cluster) {
  for (Block& block : cluster.blocks) {
    for (Thread& thread : block.threads) idle_fibers.emplace_back(thread.fiber);
    ASAN_UNPOISON_MEMORY_REGION(block.shared, machine.launch->shared_bytes);
    races_forget(block);
    free(block.shared);
  }
}

// Of the four kinds of order three are hostile: first come first served, last come first served,
// and one warp that always comes last.
Thread* choose() {
  auto& runnable = machine.runnable;
  size_t at = machine.random() % runnable.size();
  if (machine.order == 1) at = 0;
  if (machine.order == 2) at = runnable.size() - 1;
  for (int again = 0; machine.order == 3 && again < 8; ++again) {
    if (runnable[at]->index / 32 != machine.launch->seed / 4 % 8) break;
    at = machine.random() % runnable.size();
  }
  Thread* chosen = runnable[at];
  if (machine.order == 1) {
    runnable.pop_front();
  } else {
    runnable[at] = runnable.back();
    runnable.pop_back();
  }
  return chosen;
}

void explain_deadlock() {
  std::map<std::string, std::vector<const Thread*>> places;
  size_t ended = 0;
  for (const Cluster& cluster : machine.clusters) {
    for (const Block& block : cluster.blocks) {
      for (const Thread& thread : block.threads) {
        if (thread.wait == Wait::kEnded) {
          ++ended;
        } else {
          places[described(thread.site)].push_back(&thread);
        }
      }
    }
  }
  machine.error = "deadlock:";
  for (const auto& [where, threads] : places) {
    machine.error += " " + std::to_string(threads.size()) + " threads (the first: block " +
                     std::to_string(threads[0]->block->index) + " thread " +
                     std::to_string(threads[0]->index) + ") wait at " + where + ";";
  }
  machine.error += " " + std::to_string(ended) + " have ended, no other can run";
}

void run_threads(std::vector<unsigned> waiting_clusters, size_t resident) {
  const Launch& launch = *machine.launch;
  while (machine.error.empty()) {
    while (!waiting_clusters.empty() && machine.clusters.size() < resident) {
      Cluster& cluster = machine.clusters.emplace_back();
      cluster.alive = launch.cluster * launch.threads;
      for (unsigned rank = 0; rank < launch.cluster; ++rank) {
        Block& block = cluster.blocks.emplace_back();
        block.cluster = &cluster;
        block.rank = rank;
        block.index = waiting_clusters.back() * launch.cluster + rank;
        start_block(block);
      }
      waiting_clusters.pop_back();
    }
    if (machine.clusters.empty()) return;
    if (machine.runnable.empty()) return explain_deadlock();
    if (++machine.switches > launch.switches) {
      machine.error = "endless: more than " + std::to_string(launch.switches) + " switches";
      return;
    }
    Thread* thread = machine.running = choose();
    threadIdx = {thread->index, 0, 0};
    blockIdx = place(thread->block->index, launch.grid);
    thread->fiber->enter();
    machine.running = nullptr;
    Cluster* cluster = thread->block->cluster;
    if (cluster->alive == 0) {
      end_cluster(*cluster);
      machine.clusters.remove_if([&](const Cluster& c) { return &c == cluster; });
    }
  }
}

}  // namespace

std::string described(const Site& site) {
  const char* slash = site.file ? strrchr(site.file, '/') : nullptr;
  return std::string(site.what) + " (" + (slash ? slash + 1 : site.file) + ":" +
         std::to_string(site.line) + ")";
}

void run(const Launch& launch, const std::function<void()>& body) {
  const unsigned blocks = launch.grid.x * launch.grid.y * launch.grid.z;
  if (!blocks || !launch.threads || launch.threads > 1024)
    throw Error("launch: expected at least one block of 1 to 1024 threads");
  if (!launch.cluster || launch.cluster > 16 || launch.grid.x % launch.cluster)
    throw Error("launch: expected a cluster of at most 16 blocks that divides the grid");
  if (launch.shared_bytes > 227 * 1024)
    throw Error("launch: expected at most 227 KiB of shared memory");
  machine.launch = &launch;
  machine.body = &body;
  machine.random.seed(launch.seed);
  machine.order = launch.seed % 4;
  machine.switches = 0;
  blockDim = launch.threads;
  gridDim = launch.grid;
  races_start();

  std::vector<unsigned> order(blocks / launch.cluster);
  for (size_t i = 0; i < order.size(); ++i) order[i] = unsigned(i);
  std::shuffle(order.begin(), order.end(), machine.random);
  // Some clusters at a time, and no more fibers than a process may have mappings for.
  const size_t fit = kMostFibers / (size_t(launch.cluster) * launch.threads);
  run_threads(order, std::min(1 + machine.random() % 4, std::max<size_t>(fit, 1)));

  for (Cluster& cluster : machine.clusters) end_cluster(cluster);  // given up after an error
  machine.clusters.clear();
  machine.runnable.clear();
  std::string error;
  error.swap(machine.error);
  if (!error.empty()) throw Error(error);
}

void fail(const std::string& message) { throw Error(message); }

void give_up(const std::string& message) {
  machine.error = message;
  machine.running->fiber->leave(true);
  abort();  // a thread that gave up is not entered again
}

}  // namespace cuda_host
