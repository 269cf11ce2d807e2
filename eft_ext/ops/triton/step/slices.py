"""The first launch: every tile of every row, read once."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import LOG2_E, TILE
from eft_ext.ops.triton.common.mix import MIXTURE, load_models, logits_of, own, scaled
from eft_ext.ops.triton.common.options import real, scale_of
from eft_ext.ops.triton.common.tile import keep_candidates, keep_mass, keep_number, keep_sums


@triton.jit
def keep_tile(
    mix,
    row,
    raw,
    ids,
    at,
    c,
    area,
    work,
    SLOTS: tl.constexpr,
    SOURCE: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    DETAILS: tl.constexpr,
):
    """One tile of the mixture; raw: its models' logits, as of `load_models`."""
    z, excluded = logits_of(mix, row, raw, ids, area, SOURCE)
    t = scaled(z, excluded, c)
    top = keep_mass(t, at, work.mixture, not GREEDY)
    if LISTS:
        keep_candidates(t, top, c, at, work.mixture, SLOTS)
    if DETAILS:
        keep_number(t, at, work.mixture)
        keep_sums(z, excluded, at, work.sums)


@triton.jit
def keep_all(
    mix,
    row,
    raw,
    ids,
    tile,
    c,
    work,
    num_tiles,
    SLOTS: tl.constexpr,
    DEFINING: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    DETAILS: tl.constexpr,
):
    """What the slices' launch keeps of one tile.

    DEFINING < 0: of the mixture. Otherwise (conservative re-weighting): of each of the three models, and model
    DEFINING's largest tokens; the mixture follows in the rows' launch, once S is known.
    """
    at = row * num_tiles + tile
    if DEFINING < 0:
        keep_tile(mix, row, raw, ids, at, c, (0.0, 0, 0.0), work, SLOTS, MIXTURE, LISTS, GREEDY, DETAILS)
    for k in tl.static_range(len(mix.logits)):
        at_model = (row * len(mix.logits) + k) * num_tiles + tile
        if DEFINING >= 0:
            unit = tl.cast(LOG2_E, tl.float32)
            x, excluded = own(mix, raw, ids, k)
            t = scaled(x, excluded, unit)
            top = keep_mass(t, at_model, work.models, True)
            if k == DEFINING:
                keep_candidates(t, top, unit, at, work.defining, SLOTS)
        if DETAILS:
            x, excluded = own(mix, raw, ids, k)
            keep_sums(x, excluded | ~(x < float("inf")), at_model, work.model_sums)


@triton.jit
def slices_kernel(
    mix,
    sampling,
    work,
    num_tiles,
    num_slices,
    TILES: tl.constexpr,
    SLOTS: tl.constexpr,
    DEFINING: tl.constexpr,
    LISTS: tl.constexpr,
    GREEDY: tl.constexpr,
    DETAILS: tl.constexpr,
):
    """Program (row, slice) keeps TILES tiles."""
    program = tl.program_id(0)
    row = (program // num_slices).to(tl.int64)
    first = (program % num_slices) * TILES
    c = scale_of(real(sampling.temperature, row))
    for tile in range(first, tl.minimum(first + TILES, num_tiles)):
        ids = tile * TILE + tl.arange(0, TILE)
        raw = load_models(mix, row, ids)
        keep_all(mix, row, raw, ids, tile, c, work, num_tiles, SLOTS, DEFINING, LISTS, GREEDY, DETAILS)
