// A SIMT emulator: runs a kernel's threads as fibers of one host thread, in random order, and
// switches at every barrier, warp primitive and atomic. A call on which a GPU would hang, or whose
// result CUDA leaves undefined, ends the launch with an Error that names the place. See README.md.
#ifndef EFT_EMULATOR_SIMT_EMULATOR_H_
#define EFT_EMULATOR_SIMT_EMULATOR_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <stdexcept>
#include <string>

namespace simt {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Launch {
  Dim3 grid;
  unsigned threads = 1;  // of a block, in one dimension
  unsigned cluster = 1;  // blocks of a cluster, along x
  size_t shared_bytes = 0;
  uint64_t seed = 0;                // decides the order of threads and blocks
  uint64_t switches = 400'000'000;  // a launch with more than this counts as an endless wait
};

// Runs `body` once for each thread. Throws Error.
void run(const Launch& launch, const std::function<void()>& body);

// Called by a kernel's threads, from here on.

struct Site {  // a primitive's name, and the place of the call
  const char* what;
  const char* file;
  int line;
};

// Ends the launch with an Error, by an exception through the kernel.
[[noreturn]] void fail(const std::string& message);
[[noreturn]] void fail(const Site& site, const std::string& message);
// The same where no exception may pass.
[[noreturn]] void abort_launch(const std::string& message);

struct Votes {
  int count;  // threads of the block that voted other than zero
  int voters;
};
Votes block_barrier(const Site& site, bool vote);

// Exchanges a value among all lanes of `mask`. Returns 32 values; those outside the mask must not
// be read. `orders_memory`: the other lanes see afterwards what a lane wrote before.
const uint64_t* warp_exchange(const Site& site, uint32_t mask, uint64_t value, bool orders_memory);
unsigned lane();

enum class Op { kAdd, kMax, kMin, kMaxSigned, kMinSigned, kAnd, kOr, kXor, kExch, kCas, kAddFloat };
// Performs an atomic of 4 or 8 bytes and returns the value found. Other threads may run before it.
uint64_t atomic(const Site& site, void* at, size_t bytes, Op op, uint64_t value, uint64_t compare);

// Bytes read by the 16-byte loads of device_functions.h; its readers reset it.
extern uint64_t loaded_bytes;

// The steps of one block that wait for the one before. A round trip is a load that counts itself
// (count_load) or an atomic on global memory; between two barriers the most of any thread count.
struct Path {
  uint64_t block_barriers = 0, cluster_barriers = 0, round_trips = 0;
};
// The longest path of each launch, summed over launches. `finish` begins with the block's first
// atomic on global memory, its row's ticket; without one it has all.
struct Counts {
  Path read, finish;
};
extern Counts counts;  // its readers reset it

void count_load();
// The loads of a thread from one call to the other wait for memory once.
void begin_one_round_trip();
void end_one_round_trip();

void fence(bool whole_device);

void* shared_memory();
size_t shared_bytes();
unsigned cluster_rank();
unsigned cluster_size();
void cluster_arrive(const Site& site);
void cluster_wait(const Site& site);
// Returns the same place in the shared memory of another block of this cluster.
void* map_shared(const Site& site, const void* at, unsigned rank);

}  // namespace simt
#endif  // EFT_EMULATOR_SIMT_EMULATOR_H_
