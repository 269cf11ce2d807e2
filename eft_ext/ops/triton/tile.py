"""What is kept of a tile once it has been read: its largest t, its mass, its largest tokens, its sums at temperature 1."""

import triton
import triton.language as tl

from eft_ext.ops.triton.arithmetic import INFINITY, LN_2, exp_nonpositive, token_mass


@triton.jit
def keep_mass(t, at, summary, MASSES: tl.constexpr):
    """Writes the largest t (+inf: the row is invalid) and W_T at a_T = floor(largest). Returns the largest."""
    top = tl.max(t)
    tl.store(summary.top + at, top)
    if MASSES:
        tl.store(summary.mass + at, tl.sum(token_mass(t, tl.floor(top))))
    return top


@triton.jit
def keep_candidates(t, top, c, at, summary, SLOTS: tl.constexpr):
    """Lists the t above a cut, the deepest of four that leaves at most SLOTS, and writes the cut: the certificate.

    Every token of the tile with t > left is in the list; in no order that matters. A tile with too many
    near its top lists none. One sum counts for all four cuts, in 16 bits each.
    """
    stretch = tl.maximum(c * LN_2, 1.0)  # 1 / temperature: a cold row's logits lie far apart
    cut0, cut1, cut2 = top - 2.5 * stretch, top - 6.0 * stretch, top - 14.0 * stretch
    above = (t > cut0).to(tl.uint64) + ((t > cut1).to(tl.uint64) << 16)
    above += ((t > cut2).to(tl.uint64) << 32) + ((t > -INFINITY).to(tl.uint64) << 48)
    counts = tl.sum(above)
    left = tl.where((counts & 0xFFFF) <= SLOTS, cut0, top)
    left = tl.where(((counts >> 16) & 0xFFFF) <= SLOTS, cut1, left)
    left = tl.where(((counts >> 32) & 0xFFFF) <= SLOTS, cut2, left)
    left = tl.where((counts >> 48) <= SLOTS, -INFINITY, left)

    listed = t > left
    place = tl.cumsum(listed.to(tl.int32), axis=0) - 1
    tl.store(summary.tokens + at * SLOTS + place, t, mask=listed)
    tl.store(summary.left + at, left)
    tl.store(summary.count + at, tl.sum(listed.to(tl.int32)))


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
