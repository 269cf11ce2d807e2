// Finds the process's OpenMP pool and shares rows among its threads.
#include "cpu/parallel.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>

namespace eft {
namespace {

// torch brings its own OpenMP runtime. A second one would compete with it for the cores (on two
// cores: spikes of 8 ms in a 1 ms call), so the loaded one is looked up instead of linked.
struct OpenMpPool {
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  using MaxThreads = int (*)();
  Parallel parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  MaxThreads max_threads = reinterpret_cast<MaxThreads>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
};

// A forked child has the thread that forked and no other: the pool would wait for the rest forever.
std::atomic<bool> forked{false};
[[maybe_unused]] const int watched =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });

struct Rows {
  void (*task)(void*, int64_t);
  void* context;
  int64_t num_rows;
  std::atomic<int64_t> next{0};
};

void work(void* argument) {
  Rows& rows = *static_cast<Rows*>(argument);
  for (int64_t row; (row = rows.next.fetch_add(1, std::memory_order_relaxed)) < rows.num_rows;) {
    rows.task(rows.context, row);
  }
}

}  // namespace

void for_each_row(int64_t num_rows, int max_threads, void (*task)(void*, int64_t), void* context) {
  static const OpenMpPool pool;
  Rows rows{task, context, num_rows};
  if (num_rows < 2 || max_threads == 1 || !pool.parallel || !pool.max_threads ||
      forked.load(std::memory_order_relaxed)) {
    return work(&rows);
  }
  int64_t threads = pool.max_threads();
  if (max_threads > 0 && max_threads < threads) threads = max_threads;
  if (num_rows < threads) threads = num_rows;
  if (threads < 2) return work(&rows);
  pool.parallel(work, &rows, unsigned(threads), 0);
}

}  // namespace eft
