// Launches of small kernels, and the errors that the emulator reports.
#ifndef EFT_EMULATOR_TESTS_SMALL_LAUNCH_H_
#define EFT_EMULATOR_TESTS_SMALL_LAUNCH_H_

#include <string>

#include "emulator/cuda_device.h"

namespace {

using simt::Launch;
constexpr uint32_t kFull = 0xffffffffu;

inline Launch launch_of(unsigned grid, unsigned threads, size_t shared, uint64_t seed,
                        unsigned cluster = 1) {
  Launch launch;
  launch.grid = grid;
  launch.threads = threads;
  launch.cluster = cluster;
  launch.shared_bytes = shared;
  launch.seed = seed;
  launch.switches = 2'000'000;
  return launch;
}

template <class... P, class... A>
std::string error_of(const Launch& how, void (*kernel)(P...), A... arguments) {
  try {
    simt::launch(how, kernel, arguments...);
  } catch (const simt::Error& error) {
    return error.what();
  }
  return "";
}

inline bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

}  // namespace
#endif  // EFT_EMULATOR_TESTS_SMALL_LAUNCH_H_
