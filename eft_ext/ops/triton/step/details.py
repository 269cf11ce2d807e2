"""The results that `return_details` adds, from the sums that the slices stored at temperature 1."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, LN_2, TILE, exp_nonpositive, log2
from eft_ext.ops.triton.common.mix import finite_model_logits, load_models, logits_of
from eft_ext.ops.triton.common.rank import leading_part, nothing_taken, take


class Details(NamedTuple):
    """The fields of `StepDetails` that the rows' launch writes."""

    logprobs: Any
    raw_logprobs: Any
    model_logprobs: Any
    entropy: Any
    num_kept: Any
    top_ids: Any
    top_logprobs: Any
    status: Any
    num_top: int


@triton.jit
def _normaliser(sums, at, live):
    """The largest logit of tiles `at`, log sum exp(z - largest), the entropy in nats (fp64), and the tiles' tops."""
    top = tl.load(sums.top + at, mask=live, other=-INFINITY)
    total = tl.load(sums.total + at, mask=live, other=0.0)
    weighted = tl.load(sums.weighted + at, mask=live, other=0.0)
    largest = tl.max(top)
    away = tl.where(top > -INFINITY, top - largest, -200.0)
    factor = exp_nonpositive(away).to(tl.float64)
    mass = tl.sum(factor * total.to(tl.float64))
    # e (z - largest) of a tile is e (z - its top) plus e (top - largest); a tile of factor 0 adds nothing.
    inner = weighted.to(tl.float64) + tl.where(factor > 0.0, away, 0.0).to(tl.float64) * total.to(tl.float64)
    log = log2(mass) * LN_2
    return largest.to(tl.float64), log, log - tl.sum(factor * inner) / mass, top


@triton.jit
def write_details(
    details,
    token,
    logprob,
    num_kept,
    mix,
    row,
    nucleus,
    work,
    num_tiles,
    SOURCE: tl.constexpr,
    P: tl.constexpr,
):
    """A valid row's details; `logprob` fp32 and `num_kept` are the final distribution's."""
    K: tl.constexpr = len(mix.logits)
    tiles = tl.arange(0, P)
    live = tiles < num_tiles
    largest, log, entropy, top = _normaliser(work.sums, row * num_tiles + tiles, live)
    raw = load_models(mix, row, token + tl.arange(0, 1))
    z = logits_of(mix, row, raw, token + tl.arange(0, 1), nucleus, SOURCE)[0]
    tl.store(details.raw_logprobs + row, ((tl.max(z).to(tl.float64) - largest) - log).to(tl.float32))
    tl.store(details.entropy + row, entropy.to(tl.float32))
    tl.store(details.logprobs + row, logprob)
    tl.store(details.num_kept + row, num_kept)
    tl.store(details.status + row, 0)
    for k in tl.static_range(K):
        # Of an own token the other models may say anything.
        x = finite_model_logits(mix, raw[k], token + tl.arange(0, 1))
        norm = _normaliser(work.model_sums, (row * K + k) * num_tiles + tiles, live)
        found = ((tl.max(x).to(tl.float64) - norm[0]) - norm[1]).to(tl.float32)
        tl.store(details.model_logprobs + row * K + k, found)
    _write_top(details, largest, log, top, mix, row, nucleus, SOURCE, P)


@triton.jit
def _write_top(details, largest, log, top, mix, row, nucleus, SOURCE: tl.constexpr, P: tl.constexpr):
    """The first of the rank."""
    passed = nothing_taken(P)
    place = row * details.num_top
    for i in range(details.num_top):
        best = tl.max(top)
        exists = best > -INFINITY
        tile = leading_part(top, P)
        ids = tile * TILE + tl.arange(0, TILE)
        z, excluded = logits_of(mix, row, load_models(mix, row, ids), ids, nucleus, SOURCE, tile)
        token, top, passed = take(tl.where(excluded, -INFINITY, z), ids, tile, top, passed, P)
        logprob = ((best.to(tl.float64) - largest) - log).to(tl.float32)
        tl.store(details.top_ids + place + i, tl.where(exists, token, -1).to(tl.int64))
        tl.store(details.top_logprobs + place + i, tl.where(exists, logprob, -INFINITY))


@triton.jit
def write_invalid(details, row, K: tl.constexpr):
    nan = tl.full((), float("nan"), tl.float32)
    tl.store(details.logprobs + row, nan)
    tl.store(details.raw_logprobs + row, nan)
    tl.store(details.entropy + row, nan)
    tl.store(details.num_kept + row, 0)
    tl.store(details.status + row, 1)
    for k in tl.static_range(K):
        tl.store(details.model_logprobs + row * K + k, nan)
    for i in range(details.num_top):
        tl.store(details.top_ids + row * details.num_top + i, -1)
        tl.store(details.top_logprobs + row * details.num_top + i, nan)
