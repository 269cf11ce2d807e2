"""A row's statistics from its parts' shares, one program for each distribution: the part that holds the largest token
is read again, as are the target's and those of the listed ones."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY
from eft_ext.ops.triton.common.exponentials import exp64, log1p64, log64
from eft_ext.ops.triton.common.mix import MIXTURE, REWEIGHTED
from eft_ext.ops.triton.common.rank import NO_TOKEN, leading_part, nothing_taken, take
from eft_ext.ops.triton.score.parts import PART, SHARE, is_scored, load_word, logits_in, nucleus_of, tokens_of
from eft_ext.ops.triton.score.sums import add_shares, share_of

ALMOST_CERTAIN = tl.constexpr(1e-25)  # below this the sum of the others may have lost tokens to underflow


class Stats(NamedTuple):
    """The fields of `Score`, rows first."""

    lse: Any
    logprobs: Any
    entropy: Any
    max_prob: Any
    log1m_max: Any
    sum_squares: Any
    argmax: Any
    rank: Any
    top_ids: Any
    top_logprobs: Any
    tv: Any
    kl: Any
    up_ids: Any
    up_log_ratios: Any
    down_ids: Any
    down_log_ratios: Any
    status: Any


@triton.jit
def _log_others(others, largest, top, lower, weighted, squares, maxima, v, ids, token, part, P: tl.constexpr):
    """log sum exp(logit - largest) over all but the first largest, `token`, whose part is v. Where that one is almost
    certain the rest of its part may be lost to underflow: then it is summed once more, relative to its own maximum."""
    found = tl.where(others > 0.0, log64(tl.where(others > 0.0, others, 1.0)), -INFINITY)
    if others <= ALMOST_CERTAIN:
        rest = tl.where(ids == token, -INFINITY, v)
        own = share_of(rest, tl.max(rest, axis=1))
        here = tl.arange(0, P) == part
        reread = add_shares(
            tl.where(here, tl.max(rest), top),
            tl.where(here, tl.sum(own[0]), lower),
            tl.where(here, tl.sum(own[1]), weighted),
            tl.where(here, tl.sum(own[2]), squares),
            tl.where(here, tl.sum(own[3].to(tl.int32)), maxima),
        )
        exists = reread[0] > -INFINITY
        above = log1p64(tl.where(exists, reread[1], 0.0))
        found = tl.where(exists, (reread[0] - largest) + above, -INFINITY)
    return found


@triton.jit
def _write_distribution(
    stats, mix, row, d, target, nucleus, num_top, work, at, num_parts, SOURCE: tl.constexpr, P: tl.constexpr
):
    """at: of the distribution in [rows, D]."""
    summaries, parts = work.summaries, tl.arange(0, P)
    N: tl.constexpr = (len(mix.logits) + 1) * SHARE
    shares = work.shares + row * num_parts * N + d * SHARE
    top = load_word(shares, parts, num_parts, 0, N, -INFINITY)
    lower = load_word(shares, parts, num_parts, 1, N, 0.0)
    weighted = load_word(shares, parts, num_parts, 2, N, 0.0)
    squares = load_word(shares, parts, num_parts, 3, N, 0.0)
    counts = load_word(shares, parts, num_parts, 4, N, 0.0).to(tl.int32, bitcast=True)
    maxima = counts & 0xFFFF
    largest, others, of_entropy, of_squares = add_shares(top, lower, weighted, squares, maxima)

    part = leading_part(top, P)
    ids = tokens_of(part + tl.arange(0, 1))
    v = logits_in(mix, row, ids, nucleus, d, SOURCE)
    token = tl.min(tl.where(v == tl.max(top), ids, NO_TOKEN))
    log_others = _log_others(others, largest, top, lower, weighted, squares, maxima, v, ids, token, part, P)
    others = tl.where(others > ALMOST_CERTAIN, others, exp64(log_others))
    rest, every = log1p64(others), others + 1.0

    ids = tokens_of(target // PART + tl.arange(0, 1))
    v = logits_in(mix, row, ids, nucleus, d, SOURCE)
    x = tl.max(tl.where(ids == target, v, -INFINITY))
    # Of the target's own part, where only larger ones were counted.
    ties = tl.sum(((v == x) & (ids < target)).to(tl.int32))
    one = x.to(tl.float64)

    tl.store(stats.lse + at, largest + rest)
    tl.store(stats.logprobs + at, ((one - largest) - rest).to(tl.float32))
    tl.store(stats.entropy + at, (rest - of_entropy / every).to(tl.float32))
    tl.store(stats.max_prob + at, (1.0 / every).to(tl.float32))
    tl.store(stats.log1m_max + at, (log_others - rest).to(tl.float32))
    tl.store(stats.sum_squares + at, ((of_squares + 1.0) / (every * every)).to(tl.float32))
    tl.store(stats.argmax + at, token.to(tl.int64))
    tl.store(stats.rank + at, (tl.sum(counts >> 16) + ties).to(tl.int64))
    tl.store(summaries.top + at, largest.to(tl.float32))
    tl.store(summaries.rest + at, rest)
    tl.store(summaries.scale + at, (1.0 / every).to(tl.float32))

    passed, place = nothing_taken(P), at * num_top
    for i in range(num_top):
        best = tl.max(top)
        listed = tl.full((), -1, tl.int32)
        if best > -INFINITY:
            part = leading_part(top, P)
            ids = tokens_of(part + tl.arange(0, 1))
            listed, top, passed = take(logits_in(mix, row, ids, nucleus, d, SOURCE), ids, part, top, passed, P)
        tl.store(stats.top_ids + place + i, listed.to(tl.int64))
        tl.store(stats.top_logprobs + place + i, ((best.to(tl.float64) - largest) - rest).to(tl.float32))


@triton.jit
def _write_blank(stats, blank, at, num_top):
    """A distribution of a row without statistics."""
    floats = (stats.logprobs, stats.entropy, stats.max_prob, stats.log1m_max, stats.sum_squares)
    for i in tl.static_range(len(floats)):
        tl.store(floats[i] + at, blank)
    tl.store(stats.lse + at, blank.to(tl.float64))
    tl.store(stats.argmax + at, tl.full((), -1, tl.int64))
    tl.store(stats.rank + at, tl.full((), -1, tl.int64))
    for i in range(num_top):
        tl.store(stats.top_ids + at * num_top + i, tl.full((), -1, tl.int64))
        tl.store(stats.top_logprobs + at * num_top + i, blank)


@triton.jit(do_not_specialize=["ignore_index", "num_top"])
def score_rows_kernel(
    mix,
    stats,
    targets,
    ignore_index: tl.int64,
    num_top: tl.int32,
    work,
    num_parts,
    DEFINING: tl.constexpr,
    P: tl.constexpr,
):
    """Program (row, distribution). P: the number of parts rounded up to a power of two."""
    SOURCE: tl.constexpr = MIXTURE if DEFINING < 0 else REWEIGHTED + DEFINING
    K: tl.constexpr = len(mix.logits)
    at = tl.program_id(0).to(tl.int64)
    row, d = at // (K + 1), (at % (K + 1)).to(tl.int32)
    target = tl.load(targets + row)
    valid = is_scored(mix, row, target, ignore_index, work.summaries)
    # Of a row that was not read these are what the call before has left: nothing comes of them.
    N: tl.constexpr = (K + 1) * SHARE
    of_mixture = tl.max(
        load_word(work.shares + row * num_parts * N, tl.arange(0, P), num_parts, K * SHARE, N, -INFINITY)
    )
    valid &= (of_mixture > -INFINITY) & (of_mixture < INFINITY)
    ignored = target == ignore_index
    if d == K:
        tl.store(work.summaries.valid + row, valid.to(tl.int32))
        tl.store(stats.status + row, tl.where(ignored, 2, tl.where(valid, 0, 1)).to(tl.int32))
    if valid:
        nucleus = nucleus_of(work.summaries, row)
        _write_distribution(
            stats, mix, row, d, target.to(tl.int32), nucleus, num_top, work, at, num_parts, SOURCE, P
        )  # fmt: skip
    else:
        _write_blank(stats, tl.where(ignored, 0.0, float("nan")), at, num_top)
