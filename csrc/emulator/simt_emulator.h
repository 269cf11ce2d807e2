// The machine that runs a kernel: blocks of fibers in a random order, switched at every barrier,
// warp primitive and atomic. What a GPU would hang on or leave undefined ends the launch with an
// Error that names the place.
#ifndef EFT_EMULATOR_SIMT_EMULATOR_H_
#define EFT_EMULATOR_SIMT_EMULATOR_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <stdexcept>
#include <string>

namespace cuda_host {

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
  uint64_t seed = 0;                // of the order of threads and blocks
  uint64_t switches = 400'000'000;  // more than this is taken for an endless wait
};

// Runs `body` once for each thread. Throws Error.
void run(const Launch& launch, const std::function<void()>& body);

// What follows is called by a kernel's threads.

struct Site {  // a primitive, and where the kernel calls it
  const char* what;
  const char* file;
  int line;
};

// End the launch with an Error: by an exception through the kernel, or where none may pass.
[[noreturn]] void fail(const std::string& message);
[[noreturn]] void give_up(const std::string& message);
[[noreturn]] void fail(const Site& site, const std::string& message);

struct Votes {
  int count;  // threads of the block that voted other than zero
  int voters;
};
Votes block_barrier(const Site& site, bool vote);

// All lanes of `mask` meet; the 32 values that they brought (those outside the mask are not to be
// read). `orders_memory`: what a lane wrote before is seen by the others afterwards.
const uint64_t* warp_exchange(const Site& site, uint32_t mask, uint64_t value, bool orders_memory);
unsigned lane();

enum class Op { kAdd, kMax, kMin, kMaxSigned, kMinSigned, kAnd, kOr, kXor, kExch, kCas, kAddFloat };
// One atomic of 4 or 8 bytes: the value found. Other threads may run before it.
uint64_t atomic(const Site& site, void* at, size_t bytes, Op op, uint64_t value, uint64_t compare);

// Counted by the twins of the 16-byte loads; set back by whoever reads it.
extern uint64_t loaded_bytes;

void fence(bool whole_device);

void* shared_memory();
size_t shared_bytes();
unsigned cluster_rank();
unsigned cluster_size();
void cluster_arrive(const Site& site);
void cluster_wait(const Site& site);
// The same place in the shared memory of another block of this cluster.
void* map_shared(const Site& site, const void* at, unsigned rank);

}  // namespace cuda_host
#endif  // EFT_EMULATOR_SIMT_EMULATOR_H_
