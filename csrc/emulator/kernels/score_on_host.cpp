#include "emulator/kernels/score_on_host.h"

#include <stdlib.h>
#include <string.h>

#include <random>
#include <vector>

#include "cuda/score/kernels.h"
#include "cuda/score/work.cuh"
#include "cuda/step/kernels.h"
#include "emulator/race_detector.h"
#include "emulator/runtime/runtime.h"

namespace {

using eft::ScorePlan;
constexpr eft::Chip kChip = {132, 9, 227 * 1024};  // an H200, as cudaDeviceGetAttribute has it

// Scratch memory of exactly the size that was asked for, with garbage in it, watched for races.
// `apart`: every array of scoring by itself, so that each end is guarded.
class ScoreScratch {
 public:
  ScoreScratch(const eft_score& score, uint64_t seed) : random_(seed), apart_(seed % 3) {
    const int64_t rows = eft::rows_at_once(score.mixture);
    const int64_t tiles = rows * eft::num_tiles_of(score.mixture);
    eft::Workspace mixture;
    bytes_ = int64_t(eft::lay_out(score, nullptr, mixture, own_));
    whole_ = make<char>(bytes_, "workspace");
    eft::lay_out(score, whole_, mixture, own_);
    tickets_ = mixture.tickets;
    memset(tickets_, 0, EFT_CUDA_TICKET_BYTES);
    if (!apart_) return;
    const bool compared = eft::compares(score.stats);
    own_.shares = make<eft::TileShare>(tiles * (score.mixture.num_models + 1), "shares");
    own_.changes = make<eft::TileChange>(compared ? tiles : 0, "changes");
    own_.pairs = make<eft::Pair>(compared ? rows : 0, "pairs");
  }
  ~ScoreScratch() {
    simt::unwatch();
    for (void* memory : owned_) free(memory);
  }
  ScoreScratch(const ScoreScratch&) = delete;
  ScoreScratch& operator=(const ScoreScratch&) = delete;

  void* whole() const { return whole_; }
  const eft::ScoreSpace& own() const { return own_; }
  bool tickets_are_zero() const {
    for (size_t i = 0; i < EFT_CUDA_TICKET_BYTES / sizeof(uint32_t); ++i) {
      if (tickets_[i]) return false;
    }
    return true;
  }

 private:
  template <class T>
  T* make(int64_t count, const char* name) {
    const size_t bytes = size_t(count) * sizeof(T);
    void* memory = nullptr;
    if (posix_memalign(&memory, 16, bytes ? bytes : 1) != 0) abort();
    owned_.push_back(memory);
    for (size_t i = 0; i < bytes; ++i) static_cast<char*>(memory)[i] = char(random_() >> 56);
    if (bytes) simt::watch(memory, bytes, name);
    return static_cast<T*>(memory);
  }

  std::mt19937_64 random_;
  bool apart_;
  int64_t bytes_ = 0;
  std::vector<void*> owned_;
  void* whole_ = nullptr;
  uint32_t* tickets_ = nullptr;
  eft::ScoreSpace own_{};
};

simt::Launch launch_of(int blocks, int64_t rows, int threads, size_t shared, uint64_t seed) {
  simt::Launch l;
  l.seed = seed;
  l.grid = {unsigned(blocks), unsigned(rows), 1};
  l.threads = unsigned(threads);
  l.shared_bytes = shared;
  return l;
}

void launch_rows(const eft_score& score, const eft_host_launch& how, int64_t first, int64_t rows,
                 const ScoreScratch& scratch) {
  const bool own = how.kernel != EFT_HOST_CHOSEN;
  for (const eft::LaunchStage stage : {eft::kModelNuclei, eft::kMixOnly}) {
    if (!eft::comes_before(score, stage)) continue;
    eft::Plan plan = eft::make_plan_before(score, stage, first, scratch.whole());
    if (how.seed % 2) plan.uniform = 0;  // then the kernel resolves the options of each row
    const eft::LaunchChoice choice = eft::choose_launch(score.mixture, stage, kChip, rows);
    const int num_bf16_models = how.bf16_kernel ? choice.num_bf16_models : 0;
    simt::launch(
        launch_of(own ? how.blocks : choice.blocks, stage == eft::kModelNuclei ? 3 * rows : rows,
                  eft::kStreamThreads, sizeof(eft::RowWork), how.seed),
        simt::kernel_at<eft::Plan>(eft::stream_entry(num_bf16_models, choice.conservative)), plan);
  }
  ScorePlan plan = eft::make_plan(score, first, scratch.whole());
  plan.space = scratch.own();
  if (how.seed % 2) plan.mixture.uniform = 0;
  const int chosen = eft::stream_blocks(rows, plan.mixture.num_tiles, kChip);
  const simt::Launch l = launch_of(own ? how.blocks : chosen, rows, eft::kScoreThreads,
                                   sizeof(eft::ScoreWork), how.seed);
  simt::launch(l, simt::kernel_at<ScorePlan>(eft::score_entry()), plan);
  if (plan.compares) {
    simt::launch(l, simt::kernel_at<ScorePlan>(eft::compare_entry()), plan);
  }
}

}  // namespace

extern "C" int eft_score_host(const eft_score* given, const eft_host_launch* how) {
  eft_score score;
  if (const int error = eft::check_score(given, score)) return error;
  if (score.mixture.vocab_size > eft::kMaxVocab) {
    return eft::fail(EFT_UNSUPPORTED, "vocab_size: too large");
  }
  const ScoreScratch scratch(score, how->seed);
  simt::loaded_bytes = 0;
  simt::counts = {};
  const int64_t all = score.mixture.num_rows;
  try {
    for (int64_t first = 0; first < all; first += eft::kMaxLaunchRows) {
      const int64_t left = all - first;
      launch_rows(score, *how, first, left < eft::kMaxLaunchRows ? left : eft::kMaxLaunchRows,
                  scratch);
    }
  } catch (const simt::Error& error) {
    return eft::fail(EFT_DEVICE_ERROR, "%s", error.what());
  }
  if (!scratch.tickets_are_zero()) return eft::fail(EFT_DEVICE_ERROR, "tickets: not zero again");
  return EFT_OK;
}
