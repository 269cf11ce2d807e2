// Speculative verification of one row (numerics.md §8): which drafts are accepted, and the
// token that follows them.
#ifndef EFT_CPU_VERIFY_H_
#define EFT_CPU_VERIFY_H_

#include "common/verify.h"
#include "cpu/draw.h"
#include "cpu/filters.h"
#include "cpu/mixture_dispatch.h"

namespace eft {
namespace {

// A distribution in integers: the survivors' masses at the row's reference over their sum.
struct MassDistribution {
  Row row;
  Cutoff cutoff;
  uint64_t mass;

  uint64_t of(int64_t token) const {
    const float t = row.t[token];
    return keeps(cutoff, t, uint32_t(token)) ? token_mass(t, row.reference) : 0;
  }
};

// Keeps no token: q with the certain draft taken out.
constexpr Cutoff kKeepNothing = {INFINITY, 0};

// False where the row is invalid.
template <class Mixer>
bool fill_distribution(const Mixer& mixture, const RowOptions& o, Row row, Scratch& scratch,
                       MassDistribution& out) {
  fill_row(mixture, o.scale, true, row);
  if (!row.valid) return false;
  const Survivors s = filter(o, row, scratch);
  if (!unfiltered(o)) survivor_masses(s, row);
  out = {row, s.cutoff, total_mass(row)};
  return true;
}

// The masses of n tokens from id `first` on at the row's reference, integers in doubles.
inline void whole_masses(const MassDistribution& x, int64_t first, int n, double* w) {
  const float *t = x.row.t + first, a = x.row.reference, cut = x.cutoff.t;
  const int last = x.cutoff.last_kept_tie(first, n);
#pragma omp simd
  for (int i = 0; i < n; ++i) {
    const SplitMass m(share_of(t[i], a));
    const int32_t mask = -(int32_t(t[i] > cut) | (int32_t(t[i] == cut) & int32_t(i <= last)));
    w[i] = double(m.high & mask) * 0x1p17 + double(m.low & mask);
  }
}

// max(0, p - q) in units of p's masses.
struct Residual {
  const MassDistribution &p, &q;
  double ratio;

  // Writes the weights of n <= kChunk tokens and returns their sum, which is exact in any order.
  double weights(int64_t first, int n, double* rho) const {
    double other[kChunk];
    whole_masses(p, first, n, rho);
    whole_masses(q, first, n, other);
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; ++i) {
      rho[i] = residual_weight(rho[i], other[i], ratio);
      sum += rho[i];
    }
    return sum;
  }
};

inline int chunk_length(int64_t n, int64_t first) {
  return int(n - first < kChunk ? n - first : kChunk);
}

// The token at `bits` of the residual; -1 where it is empty.
inline int64_t draw_residual(const Residual& residual, uint64_t bits) {
  double rho[kChunk];
  const Row& p = residual.p.row;
  const auto empty = [&](int64_t tile) {
    return p.tile_mass[tile] == 0 || !(p.tile_reference[tile] >= p.reference - kMaxShift);
  };
  const auto tile_mass = [&](int64_t tile) {
    double sum = 0;
    const int64_t end = std::min(p.n, (tile + 1) * kTile);
    for (int64_t first = tile * kTile; first < end; first += kChunk) {
      sum += residual.weights(first, chunk_length(end, first), rho);
    }
    return uint64_t(sum);
  };
  uint64_t total = 0;
  for (int64_t tile = 0; tile < num_tiles(p); ++tile) total += empty(tile) ? 0 : tile_mass(tile);
  if (total == 0) return -1;
  uint64_t rest = mul_high(bits, total);
  for (int64_t first = 0;; first += kChunk) {
    if (empty(first / kTile)) continue;
    const int n = chunk_length(p.n, first);
    const uint64_t share = uint64_t(residual.weights(first, n, rho));
    if (rest >= share) {
      rest -= share;
      continue;
    }
    int i = 0;
    for (; rest >= uint64_t(rho[i]); ++i) rest -= uint64_t(rho[i]);
    return first + i;
  }
}

enum class Verdict { kAccepted, kStop, kInvalid };

// One position of one row. `draft` is -1 behind the last one.
struct Position {
  const eft_verify& verify;
  const RowOptions &p, &q;
  int64_t row, index, draft;
  eft_step step;
  Scratch& scratch;
  int64_t* token;

  uint64_t bits(Purpose purpose) const {
    return random_bits(p.seed, p.position + uint64_t(index), 0, purpose);
  }

  Verdict stop_with(int64_t t) const {
    *token = t;
    return Verdict::kStop;
  }
  Verdict accepted() const {
    *token = draft;
    return Verdict::kAccepted;
  }

  template <class Mixer>
  Verdict decide(const Mixer& mixture) const {
    Row work = scratch.row(0, step.vocab_size);
    if (p.greedy) {
      be_lazy(mixture);
      fill_row(mixture, p.scale, false, work);
      if (!work.valid) return Verdict::kInvalid;
      const int64_t largest = first_max(work);
      return largest == draft ? accepted() : stop_with(largest);
    }
    MassDistribution mixed;
    if (!fill_distribution(mixture, p, work, scratch, mixed)) return Verdict::kInvalid;
    if (draft < 0) return stop_with(draw(mixed.row, mixed.cutoff, mixed.mass, bits(kSample)));
    return q.greedy ? against_certainty(mixed) : against_draft(mixed);
  }

  Verdict against_certainty(const MassDistribution& mixed) const {
    if (accepts(bits(kAccept), mixed.of(draft), mixed.mass, 1, 1)) return accepted();
    float& own = mixed.row.t[draft];
    const float saved = own;
    own = -INFINITY;
    const MassDistribution nothing{mixed.row, kKeepNothing, 1};
    const int64_t other = draw_residual({mixed, nothing, 1.0}, bits(kResidual));
    own = saved;
    return stop_with(other >= 0 ? other : from_mixture(mixed));
  }

  Verdict against_draft(const MassDistribution& mixed) const {
    const eft_step draft_step = draft_at(verify, step, index);
    MassDistribution drafted;
    if (!fill_distribution(Mixture{draft_step, q, row, scratch.staging()}, q,
                           scratch.row(1, step.vocab_size), scratch, drafted)) {
      return Verdict::kInvalid;
    }
    if (accepts(bits(kAccept), mixed.of(draft), mixed.mass, drafted.of(draft), drafted.mass)) {
      return accepted();
    }
    const double ratio = double(mixed.mass) / double(drafted.mass);
    const int64_t other = draw_residual({mixed, drafted, ratio}, bits(kResidual));
    return stop_with(other >= 0 ? other : from_mixture(mixed));
  }

  // For a residual that is less than a unit everywhere.
  int64_t from_mixture(const MassDistribution& mixed) const {
    return draw(mixed.row, mixed.cutoff, mixed.mass, bits(kResidual));
  }
};

void verify_row(const eft_verify& v, int64_t row, Scratch& scratch) {
  const RowOptions p = row_options(v.step, row);
  const RowOptions q = row_options(draft_at(v, v.step, 0), row);
  const int64_t length = option_at(v.lengths, row);
  int64_t* tokens = v.tokens + row * (int64_t(v.num_drafts) + 1);
  std::fill(tokens, tokens + v.num_drafts + 1, int64_t(-1));
  v.num_accepted[row] = 0;
  v.status[row] = 1;
  if (!p.valid || !q.valid || length < 0 || length > v.num_drafts) return;
  for (int64_t i = 0;; ++i) {
    const int64_t draft = i < length ? v.drafts[row * v.num_drafts + i] : -1;
    if (i < length && (draft < 0 || draft >= v.step.vocab_size)) return;
    Verdict verdict = Verdict::kInvalid;
    const Position position{v, p, q, row, i, draft, step_at(v, i), scratch, tokens + i};
    dispatch_mixture(position.step, row, p, scratch,
                     [&](const auto& mixture) { verdict = position.decide(mixture); });
    if (verdict == Verdict::kInvalid) return;
    if (verdict == Verdict::kStop) break;
    ++v.num_accepted[row];
  }
  v.status[row] = 0;
}

}  // namespace
}  // namespace eft
#endif  // EFT_CPU_VERIFY_H_
