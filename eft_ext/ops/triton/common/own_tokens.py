"""Tokens that one model alone knows (numerics.md §15): delta of one row, and the tiles that have such tokens.

delta stands in `nucleus` as `own_delta`. Until the row's maxima are known it is None, and own tokens are left out, as
they always are where no model has any.
"""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, TILE
from eft_ext.ops.triton.common.mix import load_models, logits_of
from eft_ext.ops.triton.common.search import next_flagged
from eft_ext.ops.triton.common.tile_summary import store_maxima, store_tile


@triton.jit
def with_own_delta(nucleus, mix, flat_row, work, num_tiles, P: tl.constexpr):
    """The nucleus with the row's delta, from the maxima of its tiles."""
    if mix.owner is None:
        return nucleus
    else:
        tiles = tl.arange(0, P)
        at = flat_row * num_tiles + tiles
        best = tl.max(tl.load(work.ordinary.best + at, mask=tiles < num_tiles, other=-INFINITY))
        of_owner = tl.max(tl.load(work.ordinary.best_of_owner + at, mask=tiles < num_tiles, other=-INFINITY))
        delta = tl.where(best > -INFINITY, best - of_owner, 0.0)
        return nucleus[0], nucleus[1], nucleus[2], tl.where(best < INFINITY, delta, float("nan"))


@triton.jit
def store_special_tiles(
    nucleus,
    mix,
    flat_row,
    c,
    work,
    num_tiles,
    SOURCE: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    DETAILS: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """Writes the summaries of the row's special tiles again, with own tokens now; returns the nucleus with delta."""
    if mix.owner is None:
        return nucleus
    else:
        nucleus = with_own_delta(nucleus, mix, flat_row, work, num_tiles, P)
        tiles = tl.arange(0, P)
        special = tl.load(mix.special_tiles + tiles, mask=tiles < num_tiles, other=-1) >= 0
        tile = next_flagged(special, 0, P)
        while tile < P:
            ids = tile * TILE + tl.arange(0, TILE)
            raw = load_models(mix, flat_row, ids)
            at = flat_row * num_tiles + tile
            store_tile(mix, flat_row, raw, ids, None, at, c, nucleus, work, SLOTS, SOURCE, LISTS, GREEDY, DETAILS)
            tile = next_flagged(special, tile + 1, P)
        tl.debug_barrier()  # the caller reads what the program's other threads have kept
        return nucleus


@triton.jit
def store_all_maxima(nucleus, mix, flat_row, work, first, end, num_tiles, SOURCE: tl.constexpr):
    """Writes the maxima of tiles `first` to `end`, for operations that keep nothing else of a tile."""
    for tile in range(first, end):
        ids = tile * TILE + tl.arange(0, TILE)
        raw = load_models(mix, flat_row, ids)
        z, excluded = logits_of(mix, flat_row, raw, ids, nucleus, SOURCE, tile)
        store_maxima(mix, flat_row, raw, ids, z, excluded, flat_row * num_tiles + tile, work.ordinary)
