"""The first launch: every tile of every row, read once."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import TILE
from eft_ext.ops.triton.common.mix import load_models
from eft_ext.ops.triton.common.options import load_real, scale_of
from eft_ext.ops.triton.common.tile_summary import store_summaries


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
    c = scale_of(load_real(sampling.temperature, row))
    for tile in range(first, tl.minimum(first + TILES, num_tiles)):
        ids = tile * TILE + tl.arange(0, TILE)
        raw = load_models(mix, row, ids)
        store_summaries(mix, row, raw, ids, tile, c, work, num_tiles, SLOTS, DEFINING, LISTS, GREEDY, DETAILS)
