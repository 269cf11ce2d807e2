"""Conservative re-weighting (Mitchell et al., their section on conservative decoding): S and delta of one row.

`nucleus` is (cutoff, last, delta, own_delta): S holds the tokens whose t under the defining model, at temperature 1, is
above `cutoff`, or equal to it up to token id `last`. In rows that are not re-weighted (conservative_top_p = 1) S holds
everything, and delta is -0, which adds nothing. `own_delta` is of own_tokens.py.
"""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, LN_2, LOG2_E, TILE, log2, mass_target, token_mass
from eft_ext.ops.triton.common.draw import total_mass
from eft_ext.ops.triton.common.mix import REWEIGHTED, load_models, row_of, row_t
from eft_ext.ops.triton.common.options import fixed_top_p, load_real
from eft_ext.ops.triton.common.search import load_lists, search, survivor_masses
from eft_ext.ops.triton.common.tile_summary import store_tile


@triton.jit
def _model(mix, flat_row, work, num_tiles, k: tl.constexpr, P: tl.constexpr):
    """Model k's largest t, its tiles' largest [P], its mass and its log normaliser in nats (fp64)."""
    tiles = tl.arange(0, P)
    at = (flat_row * 3 + k) * num_tiles + tiles
    top = tl.load(work.models.top + at, mask=tiles < num_tiles, other=-INFINITY)
    mass = tl.load(work.models.mass + at, mask=tiles < num_tiles, other=0).to(tl.uint64)
    largest = tl.max(top)
    reference = tl.floor(largest)
    total = total_mass(mass, reference, top)
    lse = ((reference.to(tl.float64) - 40.0) + log2(tl.maximum(total, 1).to(tl.float64))) * LN_2
    return largest, top, total, lse


@triton.jit
def find_nucleus(
    mix,
    flat_row,
    work,
    num_tiles,
    DEFINING: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Finds the nucleus of a row that is defined, and says if it is: no model may have NaN, +inf or nothing at all."""
    large = _model(mix, flat_row, work, num_tiles, 0, P)
    tuned = _model(mix, flat_row, work, num_tiles, 1, P)
    base = _model(mix, flat_row, work, num_tiles, 2, P)
    lowest = tl.minimum(tl.minimum(large[0], tuned[0]), base[0])
    highest = tl.maximum(tl.maximum(large[0], tuned[0]), base[0])
    p_fix = fixed_top_p(mix.conservative_top_p, row_of(mix, flat_row))
    plain = p_fix >> 32 != 0
    defined = plain | ((lowest > -INFINITY) & (highest < INFINITY))
    delta = (load_real(mix.weights[0], row_of(mix, flat_row)).to(tl.float64) * (base[3] - large[3])).to(tl.float32)
    delta = tl.where(plain, -0.0, delta)
    cutoff = tl.full((), -INFINITY, tl.float32)
    last = tl.where(plain, 0x7FFFFFFF, tl.full((), -1, tl.int32))  # of tokens at -inf: all, or none
    if defined & ~plain:
        defining = _model(mix, flat_row, work, num_tiles, DEFINING, P)
        largest, top, total = defining[0], defining[1], defining[2]
        target = tl.maximum(mass_target(p_fix, total), 1)
        tokens, group_listed_above = load_lists(work.defining, flat_row, num_tiles, P, SLOTS, GROUP)
        unit = tl.cast(LOG2_E, tl.float32)
        none = (0.0, 0, 0.0, None)
        cutoff, above = search(
            target, True, largest, tokens, group_listed_above, mix, flat_row, unit, none, DEFINING, P, GROUP
        )
        if cutoff > -INFINITY:
            w = token_mass(cutoff, tl.floor(largest))
            ties = tl.cast((target - above + w - 1) // w, tl.int32)
            models = work.models
            kept_ties = survivor_masses(
                cutoff, ties, top, tokens, group_listed_above, models, flat_row * 3 + DEFINING, num_tiles,
                mix, flat_row, unit, none, DEFINING, P, GROUP,
            )[1]  # fmt: skip
            tile = tl.max(tl.where(kept_ties > 0, tl.arange(0, P), 0))
            left = tl.sum(tl.where(tl.arange(0, P) == tile, kept_ties, 0))
            ids = tile * TILE + tl.arange(0, TILE)
            tie = row_t(mix, flat_row, ids, unit, none, DEFINING) == cutoff
            last = tl.max(tl.where(tie & (tl.cumsum(tie.to(tl.int32), axis=0) <= left), ids, 0))
    return defined, (cutoff, last, delta, None)


@triton.jit
def reweight_row(
    mix,
    flat_row,
    c,
    work,
    num_tiles,
    DEFINING: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    DETAILS: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Conservative re-weighting: reads the row a second time and stores the mixture's tiles. Returns if the row is
    defined, and its nucleus."""
    defined, nucleus = find_nucleus(mix, flat_row, work, num_tiles, DEFINING, P, SLOTS, GROUP)
    for tile in range(0, num_tiles):
        ids = tile * TILE + tl.arange(0, TILE)
        raw = load_models(mix, flat_row, ids)
        at = flat_row * num_tiles + tile
        store_tile(
            mix, flat_row, raw, ids, tile, at, c, nucleus, work, SLOTS, REWEIGHTED + DEFINING, LISTS, GREEDY, DETAILS
        )  # fmt: skip
    tl.debug_barrier()  # the caller reads what the program's other threads have kept
    return defined, nucleus
