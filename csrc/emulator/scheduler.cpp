#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "emulator/asan.h"
#include "emulator/cuda_device.h"
#include "emulator/emulator_state.h"
#include "emulator/simt_emulator.h"

simt::Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

Emulator emulator;
uint64_t loaded_bytes = 0;

namespace {

constexpr size_t kMaxFibers = 8192;  // two mappings each, and two builds of this in a process

std::vector<std::unique_ptr<Fiber>> idle_fibers;

Dim3 block_position(unsigned index, const Dim3& grid) {
  return {index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y};
}

void end_thread() {
  Thread& thread = *emulator.running;
  Block& block = *thread.block;
  thread.wait = Wait::kEnded;
  --block.cluster->alive;
  if (--block.alive == 0) {
    races_end_block(block);
    count_block(block);
    ASAN_POISON_MEMORY_REGION(block.shared, emulator.launch->shared_bytes);
  }
}

void fiber_main() {
  try {
    (*emulator.body)();
    end_thread();
  } catch (const Error& error) {
    emulator.error = error.what();
  }
  emulator.running->fiber->leave(true);
}

void start_block(Block& block) {
  const Launch& launch = *emulator.launch;
  void* at = nullptr;
  if (posix_memalign(&at, 128, std::max<size_t>(launch.shared_bytes, 1)) != 0) abort();
  block.shared = static_cast<char*>(at);
  // On a device earlier blocks have left their values there.
  for (size_t i = 0; i < launch.shared_bytes; ++i) block.shared[i] = char(emulator.random() >> 56);
  races_begin_block(block, launch.shared_bytes);
  block.alive = launch.threads;
  for (unsigned t = 0; t < launch.threads; ++t) {
    Thread& thread = block.threads.emplace_back();
    thread.block = &block;
    thread.index = t;
    thread.history.number = block.index * launch.threads + t + 1;
    thread.history.warp[t % 32] = 1;
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
    ASAN_UNPOISON_MEMORY_REGION(block.shared, emulator.launch->shared_bytes);
    races_free_block(block);
    free(block.shared);
  }
}

// Three of the four kinds of order are adversarial: first come first served, last come first
// served, and one warp that always comes last.
Thread* next_thread() {
  auto& runnable = emulator.runnable;
  size_t at = emulator.random() % runnable.size();
  if (emulator.order == 1) at = 0;
  if (emulator.order == 2) at = runnable.size() - 1;
  for (int again = 0; emulator.order == 3 && again < 8; ++again) {
    if (runnable[at]->index / 32 != emulator.launch->seed / 4 % 8) break;
    at = emulator.random() % runnable.size();
  }
  Thread* chosen = runnable[at];
  if (emulator.order == 1) {
    runnable.pop_front();
  } else {
    runnable[at] = runnable.back();
    runnable.pop_back();
  }
  return chosen;
}

void report_deadlock() {
  std::map<std::string, std::vector<const Thread*>> places;
  size_t ended = 0;
  for (const Cluster& cluster : emulator.clusters) {
    for (const Block& block : cluster.blocks) {
      for (const Thread& thread : block.threads) {
        if (thread.wait == Wait::kEnded) {
          ++ended;
        } else {
          places[describe(thread.site)].push_back(&thread);
        }
      }
    }
  }
  emulator.error = "deadlock:";
  for (const auto& [where, threads] : places) {
    emulator.error += " " + std::to_string(threads.size()) + " threads (the first: block " +
                      std::to_string(threads[0]->block->index) + " thread " +
                      std::to_string(threads[0]->index) + ") wait at " + where + ";";
  }
  emulator.error += " " + std::to_string(ended) + " have ended, no other can run";
}

void schedule(std::vector<unsigned> waiting_clusters, size_t resident) {
  const Launch& launch = *emulator.launch;
  while (emulator.error.empty()) {
    while (!waiting_clusters.empty() && emulator.clusters.size() < resident) {
      Cluster& cluster = emulator.clusters.emplace_back();
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
    if (emulator.clusters.empty()) return;
    if (emulator.runnable.empty()) return report_deadlock();
    if (++emulator.switches > launch.switches) {
      emulator.error = "endless: more than " + std::to_string(launch.switches) + " switches";
      return;
    }
    Thread* thread = emulator.running = next_thread();
    threadIdx = {thread->index, 0, 0};
    blockIdx = block_position(thread->block->index, launch.grid);
    thread->fiber->enter();
    emulator.running = nullptr;
    Cluster* cluster = thread->block->cluster;
    if (cluster->alive == 0) {
      end_cluster(*cluster);
      emulator.clusters.remove_if([&](const Cluster& c) { return &c == cluster; });
    }
  }
}

}  // namespace

std::string describe(const Site& site) {
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
  emulator.launch = &launch;
  emulator.body = &body;
  emulator.random.seed(launch.seed);
  emulator.order = launch.seed % 4;
  emulator.switches = 0;
  emulator.longest = {};
  blockDim = launch.threads;
  gridDim = launch.grid;
  races_begin_launch();

  std::vector<unsigned> order(blocks / launch.cluster);
  for (size_t i = 0; i < order.size(); ++i) order[i] = unsigned(i);
  std::shuffle(order.begin(), order.end(), emulator.random);
  // 1 to 4 clusters are resident at a time, within the number of mappings that a process may have.
  const size_t fit = kMaxFibers / (size_t(launch.cluster) * launch.threads);
  schedule(order, std::min(1 + emulator.random() % 4, std::max<size_t>(fit, 1)));

  for (Cluster& cluster : emulator.clusters) end_cluster(cluster);  // left after an error
  emulator.clusters.clear();
  emulator.runnable.clear();
  std::string error;
  error.swap(emulator.error);
  if (!error.empty()) throw Error(error);
  count_launch();
}

void fail(const std::string& message) { throw Error(message); }

void abort_launch(const std::string& message) {
  emulator.error = message;
  emulator.running->fiber->leave(true);
  abort();  // the fiber is not entered again
}

}  // namespace simt
