#include <string.h>

#include "common/error.h"
#include "cuda/step/kernels.h"
#include "cuda/verify/decide.cuh"
#include "cuda/verify/kernels.h"
#include "cuda/verify/layout.h"
#include "cuda/verify/slot.cuh"
#include "emulator/kernels/scratch_memory.h"
#include "emulator/kernels/step_on_host.h"
#include "emulator/runtime/runtime.h"

namespace {

using eft::VerifyPlan;
constexpr eft::Chip kChip = {132, 9, 227 * 1024};  // as in step_on_host.cpp

// `apart`: every array by itself, so that each end is guarded; else as the library lays them out.
class VerifyScratch : ScratchMemory {
 public:
  VerifyScratch(const eft_verify& v, uint64_t seed) : ScratchMemory(seed) {
    const bool apart = seed % 3;
    const int64_t rows = eft::rows_at_once(v), num_tiles = eft::num_tiles_of(v.step);
    const int64_t slots = rows * eft::room_of_row(v), tiles = slots * num_tiles;
    char* whole = make<char>(int64_t(eft::lay_out(v, nullptr, space)), "workspace", !apart);
    eft::lay_out(v, whole, space);
    if (apart) {
      eft::Workspace& t = space.tiles;
      const int64_t nuclei = v.step.conservative ? rows * (v.num_drafts + 1) : 0;
      t.tickets = make<uint32_t>(eft::kMaxSlots, "tickets", true);
      t.nuclei = make<eft::Nucleus>(nuclei, "nuclei", true);
      t.tile_mass = make<uint64_t>(tiles, "tile_mass", true);
      t.tile_max = make<float>(tiles, "tile_max", true);
      t.group_max = make<float>(tiles * eft::kGroups, "group_max", true);
      const bool own = eft::has_own_tokens(v.step);
      t.owner_max = make<float>(own ? tiles : 0, "owner_max", true);
      t.own_deltas = make<float>(own ? slots : 0, "own_deltas", true);
      space.tokens = make<int64_t>(slots, "tokens", true);
      space.slot_mass = make<eft::SlotMass>(slots, "slot_mass", true);
      space.residual = make<uint64_t>(rows * num_tiles, "residual", true);
    }
    memset(space.tiles.tickets, 0, eft::kMaxSlots * sizeof(uint32_t));
  }
  bool tickets_are_zero() const {
    for (int i = 0; i < eft::kMaxSlots; ++i) {
      if (space.tiles.tickets[i]) return false;
    }
    return true;
  }
  eft::VerifySpace space{};
};

template <class Plan>
void launch(const void* entry, const Plan& plan, int blocks, int64_t rows, size_t shared,
            const eft_host_launch& how) {
  simt::Launch l;
  l.seed = how.seed;
  l.shared_bytes = shared;
  l.grid = {unsigned(how.kernel == EFT_HOST_CHOSEN ? blocks : how.blocks), unsigned(rows), 1};
  l.threads = eft::kStreamThreads;
  simt::launch(l, simt::kernel_at<Plan>(entry), plan);
}

void verify_rows(const eft_verify& v, VerifyPlan plan, const eft_host_launch& how) {
  const int64_t rows = plan.num_rows, slots = rows * (2 * v.num_drafts + 1);
  const int tiles = plan.mixture.num_tiles;
  const bool by_row = how.seed % 2;  // then the kernels resolve the options of each row
  if (by_row) plan.mixture.uniform = plan.draft.uniform = 0;
  for (int i = 0; v.step.conservative && i <= v.num_drafts; ++i) {
    eft::Plan nuclei = eft::nuclei_plan(v, plan, i);
    if (by_row) nuclei.uniform = 0;
    launch(eft::stream_entry(0, false), nuclei, eft::stream_blocks(3 * rows, tiles, kChip),
           3 * rows, sizeof(eft::RowWork), how);
  }
  launch(eft::verify_stream_entry(v.step.conservative), plan,
         eft::stream_blocks(slots, tiles, kChip), slots, sizeof(eft::SlotWork), how);
  launch(eft::verify_decide_entry(), plan, eft::stream_blocks(rows, tiles, kChip), rows,
         sizeof(eft::DecideWork), how);
}

}  // namespace

extern "C" int eft_verify_host(const eft_verify* v, const eft_host_launch* how) {
  if (const int error = eft::check_verify(v)) return error;
  if (v->step.vocab_size > eft::kMaxVocab || v->num_drafts > eft::kMaxDrafts) {
    return eft::fail(EFT_UNSUPPORTED, "verify: too large");
  }
  VerifyScratch scratch(*v, how->seed);
  simt::loaded_bytes = 0;
  simt::counts = {};
  try {
    for (int64_t first = 0; first < v->step.num_rows; first += eft::rows_at_once(*v)) {
      verify_rows(*v, eft::make_plan(*v, first, scratch.space), *how);
    }
  } catch (const simt::Error& error) {
    return eft::fail(EFT_DEVICE_ERROR, "%s", error.what());
  }
  if (!scratch.tickets_are_zero()) return eft::fail(EFT_DEVICE_ERROR, "tickets: not zero again");
  return EFT_OK;
}
