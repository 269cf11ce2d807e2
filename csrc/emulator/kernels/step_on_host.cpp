#include "emulator/kernels/step_on_host.h"

#include <string.h>

#include "common/error.h"
#include "cuda/step/kernels.h"
#include "emulator/kernels/scratch_memory.h"
#include "emulator/runtime/runtime.h"

namespace {

using eft::Plan;
constexpr eft::Chip kChip = {132, 9, 227 * 1024};  // an H200, as cudaDeviceGetAttribute has it
constexpr size_t kTickets = eft::kMaxLaunchRows * 3;

// `apart`: every array by itself, so that each end is guarded; else as the library lays them out.
class StepScratch : ScratchMemory {
 public:
  StepScratch(const eft_step& step, uint64_t seed) : ScratchMemory(seed) {
    const bool apart = seed % 3;
    const int64_t rows = eft::rows_at_once(step);
    const int64_t tiles = rows * (step.conservative ? 3 : 1) * eft::num_tiles_of(step);
    whole_ = make<char>(int64_t(eft::lay_out(step, nullptr, space_)), "workspace", !apart);
    eft::lay_out(step, whole_, space_);
    if (apart) {
      space_.tickets = make<uint32_t>(kTickets, "tickets", true);
      space_.nuclei = make<eft::Nucleus>(step.conservative ? rows : 0, "nuclei", true);
      space_.tile_mass = make<uint64_t>(tiles, "tile_mass", true);
      space_.tile_max = make<float>(tiles, "tile_max", true);
      space_.group_max = make<float>(tiles * eft::kGroups, "group_max", true);
      const bool stats = eft::wants_stats(step.details);
      space_.stats = make<float>(stats ? tiles * eft::kMaxStats : 0, "stats", true);
      const bool own = eft::has_own_tokens(step);
      space_.owner_max = make<float>(own ? tiles : 0, "owner_max", true);
      space_.own_deltas = make<float>(own ? rows : 0, "own_deltas", true);
    }
    memset(space_.tickets, 0, kTickets * sizeof(uint32_t));
  }

  void lend_to(Plan& plan) const { plan.workspace = space_; }
  void* whole() const { return whole_; }
  bool tickets_are_zero() const {
    for (size_t i = 0; i < kTickets; ++i) {
      if (space_.tickets[i]) return false;
    }
    return true;
  }

 private:
  void* whole_ = nullptr;
  eft::Workspace space_{};
};

// The library's choice, bent to what the test asks for. False where the resident kernel cannot.
bool choose_launch(const eft_step& step, eft::LaunchStage stage, const eft_host_launch& how,
                   int64_t rows, eft::LaunchChoice& choice) {
  choice = eft::choose_launch(step, stage, kChip, rows);
  if (how.kernel == EFT_HOST_CHOSEN) return true;
  if (!how.bf16_kernel) choice.num_bf16_models = 0;
  choice.blocks = how.blocks;
  choice.cluster = 0;
  choice.shared_bytes = sizeof(eft::RowWork);
  if (how.kernel == EFT_HOST_STREAMING || stage == eft::kModelNuclei) return true;
  choice.cluster = how.blocks;
  choice.shared_bytes =
      eft::resident_bytes((eft::num_tiles_of(step) + how.blocks - 1) / how.blocks);
  return stage == eft::kSampleRows && !step.conservative && !step.special.tiles &&
         !eft::wants_stats(step.details) && choice.shared_bytes <= kChip.shared_bytes;
}

void launch(const Plan& plan, const eft::LaunchChoice& choice, int64_t rows, uint64_t seed) {
  simt::Launch l;
  l.seed = seed;
  l.shared_bytes = size_t(choice.shared_bytes);
  if (choice.cluster) {
    l.grid = {unsigned(rows * choice.cluster), 1, 1};
    l.cluster = unsigned(choice.cluster);
    l.threads = eft::kResidentThreads;
  } else {
    l.grid = {unsigned(choice.blocks), unsigned(rows), 1};
    l.threads = eft::kStreamThreads;
  }
  const void* entry = choice.cluster
                          ? eft::resident_entry(choice.num_bf16_models)
                          : eft::stream_entry(choice.num_bf16_models, choice.conservative);
  simt::launch(l, simt::kernel_at<Plan>(entry), plan);
  if (plan.stage != eft::kSampleRows || !plan.step.details.num_top) return;
  l.grid = {unsigned(rows), 1, 1};
  l.shared_bytes = sizeof(eft::RowWork);
  simt::launch(l, simt::kernel_at<Plan>(eft::top_ids_entry()), plan);
}

int run(const eft_step& step, const eft_host_launch& how, float* z, int64_t z_row_stride) {
  if (step.vocab_size > eft::kMaxVocab) return eft::fail(EFT_UNSUPPORTED, "vocab_size: too large");
  const eft::LaunchStage last = z ? eft::kMixOnly : eft::kSampleRows;
  StepScratch scratch(step, how.seed);
  simt::loaded_bytes = 0;
  simt::counts = {};
  for (int64_t first = 0; first < step.num_rows; first += eft::kMaxLaunchRows) {
    const int64_t left = step.num_rows - first;
    const int64_t rows = left < eft::kMaxLaunchRows ? left : eft::kMaxLaunchRows;
    for (const eft::LaunchStage stage : {eft::kModelNuclei, last}) {
      if (stage == eft::kModelNuclei && !step.conservative) continue;
      eft::LaunchChoice choice;
      if (!choose_launch(step, stage, how, rows, choice))
        return eft::fail(EFT_UNSUPPORTED, "resident: not this step");
      Plan plan = eft::make_plan(step, stage, first, scratch.whole(), z, z_row_stride);
      scratch.lend_to(plan);
      if (how.seed % 2) plan.uniform = 0;  // then the kernel resolves the options of each row
      try {
        launch(plan, choice, stage == eft::kModelNuclei ? 3 * rows : rows, how.seed);
      } catch (const simt::Error& error) {
        return eft::fail(EFT_DEVICE_ERROR, "%s", error.what());
      }
    }
  }
  if (!scratch.tickets_are_zero()) return eft::fail(EFT_DEVICE_ERROR, "tickets: not zero again");
  return EFT_OK;
}

}  // namespace

extern "C" int eft_step_host(const eft_step* step, const eft_host_launch* how) {
  if (const int error = eft::check_step(step)) return error;
  if (!step->tokens) return eft::fail(EFT_BAD_ARGUMENT, "tokens: null");
  return run(*step, *how, nullptr, 0);
}

extern "C" int eft_combine_host(const eft_step* step, float* z, int64_t z_row_stride,
                                const eft_host_launch* how) {
  if (const int error = eft::check_step(step)) return error;
  return run(*step, *how, z, z_row_stride);
}

extern "C" uint64_t eft_host_bytes_loaded(void) { return simt::loaded_bytes; }
extern "C" void eft_host_counts(uint64_t counts[6]) {
  for (const simt::Path& path : {simt::counts.finish, simt::counts.read}) {
    *counts++ = path.block_barriers;
    *counts++ = path.cluster_barriers;
    *counts++ = path.round_trips;
  }
}
extern "C" int eft_host_detects_races(void) { return simt::detects_races(); }
