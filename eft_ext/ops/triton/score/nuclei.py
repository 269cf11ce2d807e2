"""Conservative re-weighting: two launches before the first read, which find S and delta of each row."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import TILE
from eft_ext.ops.triton.common.conservative import find_nucleus
from eft_ext.ops.triton.common.mix import load_models
from eft_ext.ops.triton.common.tile_summary import store_summaries


@triton.jit(do_not_specialize=["ignore_index"])
def score_masses_kernel(
    mix,
    targets,
    ignore_index: tl.int64,
    work,
    num_tiles,
    num_slices,
    TILES: tl.constexpr,
    SLOTS: tl.constexpr,
    DEFINING: tl.constexpr,
):
    """Program (row, slice) keeps the models' masses and the defining model's largest tokens; ignored rows are not
    read."""
    program = tl.program_id(0)
    row = (program // num_slices).to(tl.int64)
    first = (program % num_slices) * TILES
    if tl.load(targets + row) != ignore_index:
        for tile in range(first, tl.minimum(first + TILES, num_tiles)):
            ids = tile * TILE + tl.arange(0, TILE)
            raw = load_models(mix, row, ids)
            store_summaries(mix, row, raw, ids, tile, 1.0, work.nuclei, num_tiles, SLOTS, DEFINING, False, False, False)


@triton.jit(do_not_specialize=["ignore_index"])
def score_nuclei_kernel(
    mix,
    targets,
    ignore_index: tl.int64,
    work,
    num_tiles,
    DEFINING: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Program `row` writes if the row is defined, and its nucleus. P: tiles rounded up to a power of two."""
    row = tl.program_id(0).to(tl.int64)
    summaries = work.summaries
    if tl.load(targets + row) != ignore_index:
        defined, nucleus = find_nucleus(mix, row, work.nuclei, num_tiles, DEFINING, P, SLOTS, GROUP)
        tl.store(summaries.defined + row, defined.to(tl.int32))
        tl.store(summaries.nucleus_cutoff + row, nucleus[0])
        tl.store(summaries.nucleus_last + row, nucleus[1])
        tl.store(summaries.nucleus_delta + row, nucleus[2])
