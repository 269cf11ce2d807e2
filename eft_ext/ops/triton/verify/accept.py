"""The decision on a row's drafts (numerics.md §8), from the summaries of each flat row of p and q.

`flat_row` is (row, position): row * (num_drafts + 1) + i of p, row * num_drafts + i of q.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from eft_ext.ops.triton.common.mix import KernelMix
from eft_ext.ops.triton.common.options import Options, is_greedy, load_integer, load_real
from eft_ext.ops.triton.common.philox import ACCEPT, random_bits, row_seed


class PositionSummary(NamedTuple):
    """The summary of a flat row: its distribution in integers and, of p, the token that follows there."""

    valid: Any  # int32
    cutoff: Any  # fp32, t
    reference: Any  # fp32, A
    total: Any  # int64, S, the survivors' mass
    mass: Any  # int64, the draft's
    ties: Any  # int32 [flat_row, tile], survivors at the cutoff; None without filters
    share: Any  # int64 [flat_row, tile], of S
    token: Any  # int32, the ordinary draw: with bits of purpose 0 behind the last draft, else of purpose 2
    nucleus_cutoff: Any  # fp32, int32, fp32: the nucleus of conservative.py
    nucleus_last: Any
    nucleus_delta: Any
    own_delta: Any  # fp32, of own_tokens.py


class Distribution(NamedTuple):
    """p or q. Where no model draws (greedy p, certain drafts) q has nothing but its options."""

    mix: KernelMix | None
    sampling: Options
    work: Any
    summary: PositionSummary | None


@triton.jit
def accepts(bits, wp, sp, wq, sq):
    """u q < p for u = bits / 2^64, q = wq / sq, p = wp / sp: bits wq sp < wp sq 2^64, exactly. All uint64."""
    low, high = wq * sp, tl.umulhi(wq, sp)
    carry = tl.umulhi(bits, low)
    sum_low = bits * high + carry
    sum_high = tl.umulhi(bits, high) + (sum_low < carry).to(tl.uint64)
    of_p = tl.umulhi(wp, sq)
    return (sum_high < of_p) | ((sum_high == of_p) & (sum_low < wp * sq))


@triton.jit
def is_certain_draft(q, row):
    return is_greedy(load_real(q.sampling.temperature, row))


@triton.jit
def seed_and_position(p, seed, position, row):
    """A row's, uint64."""
    seed = load_integer(seed, p.sampling.seed_rows, row).to(tl.uint64)
    if p.sampling.seed_rows is None:
        seed = row_seed(seed, row)
    return seed, load_integer(position, p.sampling.position_rows, row).to(tl.uint64)


@triton.jit
def decide(
    p,
    q,
    drafts,
    row,
    length,
    num_drafts,
    seed,
    position,
    GREEDY: tl.constexpr,
    DRAFTED: tl.constexpr,
    KP: tl.constexpr,
):
    """The number of accepted drafts (int32), if the position behind them is valid, and if its token comes from the
    residual. 0 <= length <= num_drafts < KP; seed, position: uint64 scalars."""
    i = tl.arange(0, KP)
    proposed = i < length
    flat_row = row * (num_drafts + 1) + i
    draft = tl.load(drafts + row * num_drafts + i, mask=proposed, other=0)
    is_valid = tl.load(p.summary.valid + flat_row, mask=i <= length, other=0) != 0
    is_valid &= (draft >= 0) & (draft < p.mix.vocab_size)
    greedy = is_greedy(load_real(p.sampling.temperature, row))
    is_accepted = tl.load(p.summary.token + flat_row, mask=proposed, other=-1).to(tl.int64) == draft
    if not GREEDY:
        wp = tl.load(p.summary.mass + flat_row, mask=proposed, other=0).to(tl.uint64)
        sp = tl.load(p.summary.total + flat_row, mask=proposed, other=0).to(tl.uint64)
        wq, sq = tl.full([KP], 1, tl.uint64), tl.full([KP], 1, tl.uint64)
        if DRAFTED:
            drawn = i < tl.where(is_certain_draft(q, row) | greedy, 0, length)
            flat_row_q = row * num_drafts + i
            wq = tl.load(q.summary.mass + flat_row_q, mask=drawn, other=1).to(tl.uint64)
            sq = tl.load(q.summary.total + flat_row_q, mask=drawn, other=1).to(tl.uint64)
            is_valid &= tl.load(q.summary.valid + flat_row_q, mask=drawn, other=1) != 0
        bits = random_bits(seed, position + i.to(tl.uint64), ACCEPT)
        is_accepted = tl.where(greedy, is_accepted, accepts(bits, wp, sp, wq, sq))
    first = tl.min(tl.where(proposed & is_valid & is_accepted, KP, i))
    first_is_valid = tl.max(tl.where(i == first, is_valid.to(tl.int32), 0)) != 0
    return first, first_is_valid, first_is_valid & (first < length) & ~greedy
