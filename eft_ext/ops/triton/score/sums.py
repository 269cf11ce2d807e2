"""A distribution's sums: of a tile, and a row's, put together in double, always in the same order."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY
from eft_ext.ops.triton.common.exponentials import UNDERFLOW, exp64, exp_live


@triton.jit
def share_of(v, top):
    """Sums of e, e (v - top) and e^2 over a part's tokens below `top`, its largest; and which tokens are at it. v:
    [parts, PART], top: [parts]."""
    d = v - tl.where(top > -INFINITY, top, 0.0)[:, None]
    e = tl.where((d > UNDERFLOW) & (d < 0.0), exp_live(d), 0.0)
    weighted = tl.sum(e * tl.maximum(d, UNDERFLOW), axis=1)
    return tl.sum(e, axis=1), weighted, tl.sum(e * e, axis=1), d == 0.0


@triton.jit
def next_up(x):
    """The next larger fp32 of one that is finite or -inf: v > x is v >= next_up(x)."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits - 1, bits + 1).to(tl.float32, bitcast=True)


@triton.jit
def add_shares(top, lower, weighted, squares, maxima):
    """A row's largest logit, and its sums relative to that and without that one token, fp64 (csrc/cpu/score_sums.h):
    so 1 - p is a sum and never a difference. Of each part [P]."""
    largest = tl.max(top).to(tl.float64)
    d = tl.where(top > -INFINITY, top.to(tl.float64) - largest, -1000.0)
    factor = exp64(d)
    at_max = top == tl.max(top)
    count = tl.where(at_max, 0, maxima).to(tl.float64)  # those at the row's maximum follow as integers
    every = lower.to(tl.float64) + count
    more = (tl.sum(tl.where(at_max, maxima, 0)) - 1).to(tl.float64)
    others = tl.sum(factor * every) + more
    return (
        largest,
        others,
        tl.sum(factor * (weighted.to(tl.float64) + d * every)),
        tl.sum(factor * factor * (squares.to(tl.float64) + count)) + more,
    )
