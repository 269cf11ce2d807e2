// Rows shared among the threads of the OpenMP pool that the process already runs.
#ifndef EFT_CPU_PARALLEL_H_
#define EFT_CPU_PARALLEL_H_

#include <stdint.h>

namespace eft {

// Calls task(context, row) for each row in [0, num_rows), on at most `max_threads` threads (0: the
// pool's own number). On the calling thread alone where no pool is loaded, one thread was asked
// for, or the process was forked after this library was loaded.
void for_each_row(int64_t num_rows, int max_threads, void (*task)(void* context, int64_t row),
                  void* context);

// The same for any callable work(part).
template <class Work>
void for_each_part(int64_t num_parts, int max_threads, const Work& work) {
  const auto call = [](void* context, int64_t part) { (*static_cast<const Work*>(context))(part); };
  for_each_row(num_parts, max_threads, call, const_cast<Work*>(&work));
}

}  // namespace eft
#endif  // EFT_CPU_PARALLEL_H_
