// One row's scoring on the CPU. Compiled three times with different instruction sets; EFT_ISA names
// the copy. Its sums are floating-point, but kept in the same sixteen groups by all copies, so they
// give the same bits (csrc/tests/test_score.cpp).
#include "cpu/score_isa.h"

#include "cpu/mixture_dispatch.h"
#include "cpu/score_write.h"

namespace eft {
namespace {

void score_row(const eft_score& score, int64_t row, Scratch& scratch) {
  const int64_t target = score.targets[row];
  if (target == score.ignore_index) return write_blank(score, row, 2);
  if (target < 0 || target >= score.mixture.vocab_size) return write_blank(score, row, 1);
  alignas(64) float tiles[kMaxDistributions][kTile];
  const RowOptions o = row_options(score.mixture, row);
  bool valid = false;
  dispatch_mixture(score.mixture, row, o, scratch, [&](const auto& mixture) {
    ScoredRow<std::decay_t<decltype(mixture)>> scored{score, row, mixture, tiles};
    find_delta(mixture);  // before anything is ranked
    valid = scored.read(target);
    if (valid) write_row(scored);
  });
  if (!valid) write_blank(score, row, 1);
}

}  // namespace

namespace scoring {

extern const ScoreRow EFT_ISA;
const ScoreRow EFT_ISA = score_row;

}  // namespace scoring
}  // namespace eft
