"""What is kept of a tile: its largest t, its mass, its largest tokens, its sums at temperature 1."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, LN_2, exp_nonpositive, token_mass


@triton.jit
def keep_mass(t, at, summary, MASSES: tl.constexpr):
    """Writes the largest t (+inf: the row is invalid) and W_T at a_T = floor(largest). Returns the largest."""
    top = tl.max(t)
    tl.store(summary.top + at, top)
    if MASSES:
        tl.store(summary.mass + at, tl.sum(token_mass(t, tl.floor(top))))
    return top


@triton.jit
def _eighths(t):
    """t [1024] as eight columns [128]: each thread's own eight consecutive tokens, so nothing moves."""
    even, odd = tl.split(tl.reshape(t, [128, 2, 2, 2]))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    a0, a1 = tl.split(a)
    b0, b1 = tl.split(b)
    c0, c1 = tl.split(c)
    d0, d1 = tl.split(d)
    return a0, a1, b0, b1, c0, c1, d0, d1


@triton.jit
def keep_candidates(t, top, c, at, summary, SLOTS: tl.constexpr):
    """Lists the t above a cut and writes the cut, the certificate: every token of the tile with t > left is listed.

    The cut is the deepest of four above which no more than SLOTS / 2 of the 128 groups of eight tokens reach; where
    their tokens overflow the list, none is listed. One sum counts for all four cuts, in 16 bits each. The list's order
    means nothing.
    """
    columns = _eighths(t)
    best = columns[0]
    for i in tl.static_range(1, 8):
        best = tl.maximum(best, columns[i])
    stretch = tl.maximum(c * LN_2, 1.0)  # 1 / temperature: a cold row's logits lie far apart
    cut0, cut1, cut2 = top - 2.5 * stretch, top - 6.0 * stretch, top - 14.0 * stretch
    above = (best > cut0).to(tl.uint64) + ((best > cut1).to(tl.uint64) << 16)
    above += ((best > cut2).to(tl.uint64) << 32) + ((best > -INFINITY).to(tl.uint64) << 48)
    groups = tl.sum(above)
    left = tl.where((groups & 0xFFFF) <= SLOTS // 2, cut0, top)
    left = tl.where(((groups >> 16) & 0xFFFF) <= SLOTS // 2, cut1, left)
    left = tl.where(((groups >> 32) & 0xFFFF) <= SLOTS // 2, cut2, left)
    left = tl.where((groups >> 48) <= SLOTS // 2, -INFINITY, left)

    of_thread = (columns[0] > left).to(tl.int32)
    for i in tl.static_range(1, 8):
        of_thread += (columns[i] > left).to(tl.int32)
    count = tl.sum(of_thread)
    left = tl.where(count <= SLOTS, left, top)
    tl.store(summary.left + at, left)
    tl.store(summary.count + at, tl.where(count <= SLOTS, count, 0))
    place = tl.cumsum(of_thread, axis=0) - of_thread
    for i in tl.static_range(8):
        listed = columns[i] > left
        tl.store(summary.tokens + at * SLOTS + place, columns[i], mask=listed)
        place += listed.to(tl.int32)


@triton.jit
def keep_sums(z, excluded, at, sums):
    """Of the tile at temperature 1: the largest z, sum of e = exp(z - largest), sum of e (z - largest)."""
    z = tl.where(excluded, -INFINITY, z)
    top = tl.max(tl.where(z < INFINITY, z, -INFINITY))
    d = tl.where(z < INFINITY, z, -INFINITY) - top
    e = exp_nonpositive(d)
    tl.store(sums.top + at, top)
    tl.store(sums.total + at, tl.sum(e))
    tl.store(sums.weighted + at, tl.sum(tl.where(e > 0.0, e * d, 0.0)))


@triton.jit
def keep_number(t, at, summary):
    """The tile's tokens that are not excluded."""
    tl.store(summary.number + at, tl.sum((t > -INFINITY).to(tl.int32)))
