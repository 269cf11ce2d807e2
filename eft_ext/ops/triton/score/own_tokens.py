"""Tokens that one model alone knows: two launches before the first read, which find delta of each row."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.mix import MIXTURE, REWEIGHTED
from eft_ext.ops.triton.common.own_tokens import store_all_maxima, with_own_delta
from eft_ext.ops.triton.score.parts import is_scored, nucleus_without_delta


@triton.jit(do_not_specialize=["ignore_index"])
def score_maxima_kernel(
    mix, targets, ignore_index: tl.int64, work, num_tiles, num_slices, TILES: tl.constexpr, DEFINING: tl.constexpr
):
    """Program (row, slice) keeps the maxima of TILES tiles; rows without statistics are not read."""
    SOURCE: tl.constexpr = MIXTURE if DEFINING < 0 else REWEIGHTED + DEFINING
    program = tl.program_id(0)
    row = (program // num_slices).to(tl.int64)
    first = (program % num_slices) * TILES
    if is_scored(mix, row, tl.load(targets + row), ignore_index, work.summaries):
        nucleus = nucleus_without_delta(work.summaries, row)
        end = tl.minimum(first + TILES, num_tiles)
        store_all_maxima(nucleus, mix, row, work, first, end, num_tiles, SOURCE)


@triton.jit
def score_deltas_kernel(mix, work, num_tiles, P: tl.constexpr):
    """Program `row` writes its delta: of a row that is not read, of whatever the call before has left."""
    row = tl.program_id(0).to(tl.int64)
    nucleus = with_own_delta((0.0, 0, 0.0, None), mix, row, work, num_tiles, P)
    tl.store(work.summaries.own_delta + row, nucleus[3])
