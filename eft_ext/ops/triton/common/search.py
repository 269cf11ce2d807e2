"""The search for a filter's cutoff: among the listed tokens, and in tiles with an incomplete list, read again.

A row's tokens stand in `tokens` [P, SLOTS], -inf in free places, P the number of tiles rounded up to a power of two.
All tokens of a tile with t > listed_above are there. `group_listed_above` is `listed_above`'s maximum over groups of
GROUP tiles: a group is read again, whole, where something below its `group_listed_above` is asked for. In a language
model's row that is none; in a flat row it is every group. Either way all sums are exact, so there is nothing to fall
back to.
"""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, TILE, between, token_mass
from eft_ext.ops.triton.common.mix import row_t

ALL_TIES = tl.constexpr(0x7FFFFFFF)


@triton.jit
def load_lists(lists, flat_row, num_tiles, P: tl.constexpr, SLOTS: tl.constexpr, GROUP: tl.constexpr):
    """tokens [P, SLOTS], group_listed_above [P]."""
    tiles = tl.arange(0, P)
    live = tiles < num_tiles
    at = flat_row * num_tiles + tiles
    listed_above = tl.load(lists.listed_above + at, mask=live, other=-INFINITY)
    count = tl.load(lists.num_listed + at, mask=live, other=0)
    slots = tl.arange(0, SLOTS)[None, :]
    tokens = tl.load(lists.tokens + at[:, None] * SLOTS + slots, mask=slots < count[:, None], other=-INFINITY)
    of_group = tl.max(tl.reshape(listed_above, [P // GROUP, GROUP]), axis=1)
    group_listed_above = tl.reshape(tl.broadcast_to(of_group[:, None], [P // GROUP, GROUP]), [P])
    return tokens, group_listed_above


@triton.jit
def _weight(t, reference, by_mass):
    """The weight of a token, uint64: its mass at `reference`, or 1."""
    return tl.where(by_mass, token_mass(t, reference), (t > -INFINITY).to(tl.uint64))


@triton.jit
def next_flagged(reread, start, P: tl.constexpr):
    """The first tile from `start` on that is flagged, or P."""
    tiles = tl.arange(0, P)
    return tl.min(tl.where(reread & (tiles >= start), tiles, P))


@triton.jit
def _split(t, weight, cut):
    """The weight above the cut, the smallest t above it, the largest t not above it."""
    above = t > cut
    total = tl.sum(tl.where(above, weight, 0))
    return total, tl.min(tl.where(above, t, INFINITY)), tl.max(tl.where(above, -INFINITY, t))


@triton.jit
def _probe(
    cut,
    floor,
    by_mass,
    reference,
    tokens,
    weights,
    group_listed_above,
    mix,
    flat_row,
    c,
    nucleus,
    SOURCE: tl.constexpr,
    P: tl.constexpr,
    GROUP: tl.constexpr,
):
    """`_split` of the row's tokens; right for tokens above `floor`, which is at most `cut`."""
    reread = group_listed_above > floor
    total, least, most = _split(tl.where(reread[:, None], -INFINITY, tokens), weights, cut)
    tile = next_flagged(reread, 0, P)
    while tile < P:
        start = tile // GROUP * GROUP
        t = row_t(mix, flat_row, start * TILE + tl.arange(0, GROUP * TILE), c, nucleus, SOURCE)
        more, low, high = _split(t, _weight(t, reference, by_mass), cut)
        total += more
        least, most = tl.minimum(least, low), tl.maximum(most, high)
        tile = next_flagged(reread, start + GROUP, P)
    return total, least, most


@triton.jit
def search(
    target,
    by_mass,
    largest,
    tokens,
    group_listed_above,
    mix,
    flat_row,
    c,
    nucleus,
    SOURCE: tl.constexpr,
    P: tl.constexpr,
    GROUP: tl.constexpr,
):
    """The largest t at or above which the row's tokens weigh `target`, and the weight above it; -inf if all weigh less.

    A token weighs its mass at the row's reference, or 1. `largest` is the row's largest t.
    """
    reference = tl.floor(largest)
    weights = _weight(tokens, reference, by_mass)
    floor = tl.max(group_listed_above)
    step = 1.0
    # What lies above `high` weighs less than `target`; what lies at or above `low`, once that is known, does not.
    low, high, above = tl.full((), -INFINITY, tl.float32), largest, tl.zeros((), tl.uint64)
    while low < high:
        known = low > -INFINITY
        cut = tl.where(known, between(low, high), floor)
        total, least, most = _probe(
            cut, floor, by_mass, reference, tokens, weights, group_listed_above, mix, flat_row, c, nucleus,
            SOURCE, P, GROUP,
        )  # fmt: skip
        if total >= target:
            low = least
        else:
            above = total
            high = tl.where(known, most, tl.minimum(high, floor))
            if ~known:
                # Not within reach of the lists: look deeper, in growing steps, reading more groups again.
                floor = tl.max(tl.where(group_listed_above < floor - step, group_listed_above, -INFINITY))
                step *= 2.0
    return high, above


@triton.jit
def survivor_masses(
    cutoff,
    ties,
    top,
    tokens,
    group_listed_above,
    summary,
    summary_row,
    num_tiles,
    mix,
    flat_row,
    c,
    nucleus,
    SOURCE: tl.constexpr,
    P: tl.constexpr,
    GROUP: tl.constexpr,
):
    """The survivors of each tile, those above `cutoff` and the first `ties` at it: their mass W_T, how many of the ties
    are the tile's, and their number in all. uint64, int32, int32 [P]. top: the tiles' largest t [P], also at row
    `summary_row` of `summary`."""
    reread = group_listed_above >= cutoff
    listed = tl.where(reread[:, None], -INFINITY, tokens)
    a = tl.floor(top)
    mass = tl.sum(tl.where(listed > cutoff, token_mass(listed, a[:, None]), 0), axis=1)
    number = tl.sum((listed > cutoff).to(tl.int32), axis=1)
    equal = tl.sum((listed == cutoff).to(tl.int32), axis=1)

    G: tl.constexpr = P // GROUP
    mass, number, equal = tl.reshape(mass, [G, GROUP]), tl.reshape(number, [G, GROUP]), tl.reshape(equal, [G, GROUP])
    tile = next_flagged(reread, 0, P)
    while tile < P:
        group = tile // GROUP
        within = group * GROUP + tl.arange(0, GROUP)
        t = row_t(mix, flat_row, within[:, None] * TILE + tl.arange(0, TILE)[None, :], c, nucleus, SOURCE)
        largest = tl.load(summary.top + summary_row * num_tiles + within, mask=within < num_tiles, other=-INFINITY)
        w = tl.where(t > cutoff, token_mass(t, tl.floor(largest)[:, None]), 0)
        here = (tl.arange(0, G) == group)[:, None]
        mass = tl.where(here, tl.sum(w, axis=1)[None, :], mass)
        number = tl.where(here, tl.sum((t > cutoff).to(tl.int32), axis=1)[None, :], number)
        equal = tl.where(here, tl.sum((t == cutoff).to(tl.int32), axis=1)[None, :], equal)
        tile = next_flagged(reread, group * GROUP + GROUP, P)
    mass, number, equal = tl.reshape(mass, [P]), tl.reshape(number, [P]), tl.reshape(equal, [P])

    before = tl.cumsum(equal, axis=0) - equal
    kept = tl.minimum(tl.maximum(ties - before, 0), equal)
    # All tokens at the cutoff weigh the same; where a tile has none, its reference may lie below them.
    mass += token_mass(cutoff, tl.maximum(a, tl.floor(cutoff))) * kept.to(tl.uint64)
    return mass, kept, number + kept
