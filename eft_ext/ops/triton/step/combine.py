"""The mixture's logits themselves, for other people's processors."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, TILE
from eft_ext.ops.triton.common.conservative import find_nucleus
from eft_ext.ops.triton.common.mix import MIXTURE, REWEIGHTED, load_models, logits_of
from eft_ext.ops.triton.common.options import mixture_is_valid
from eft_ext.ops.triton.common.own_tokens import store_all_maxima, with_own_delta


@triton.jit
def combine_maxima_kernel(
    mix,
    work,
    num_tiles,
    num_slices,
    TILES: tl.constexpr,
    DEFINING: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Program (row, slice) keeps the maxima of TILES tiles, where a model has tokens of its own."""
    SOURCE: tl.constexpr = MIXTURE if DEFINING < 0 else REWEIGHTED + DEFINING
    program = tl.program_id(0)
    row = (program // num_slices).to(tl.int64)
    first = (program % num_slices) * TILES
    nucleus = (0.0, 0, 0.0, None)
    if DEFINING >= 0:
        nucleus = find_nucleus(mix, row, work, num_tiles, DEFINING, P, SLOTS, GROUP)[1]
    end = tl.minimum(first + TILES, num_tiles)
    store_all_maxima(nucleus, mix, row, work, first, end, num_tiles, SOURCE)


@triton.jit
def combine_kernel(
    mix,
    work,
    out,
    out_stride,
    num_tiles,
    num_slices,
    TILES: tl.constexpr,
    DEFINING: tl.constexpr,
    P: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Program (row, slice) writes z of TILES tiles; a row with bad options, or undefined, is NaN."""
    SOURCE: tl.constexpr = MIXTURE if DEFINING < 0 else REWEIGHTED + DEFINING
    program = tl.program_id(0)
    row = (program // num_slices).to(tl.int64)
    first = (program % num_slices) * TILES
    valid = mixture_is_valid(mix, row)
    if DEFINING >= 0:
        defined, nucleus = find_nucleus(mix, row, work, num_tiles, DEFINING, P, SLOTS, GROUP)
        valid &= defined
    else:
        nucleus = (0.0, 0, 0.0, None)
    nucleus = with_own_delta(nucleus, mix, row, work, num_tiles, P)
    for tile in range(first, tl.minimum(first + TILES, num_tiles)):
        ids = tile * TILE + tl.arange(0, TILE)
        z, excluded = logits_of(mix, row, load_models(mix, row, ids), ids, nucleus, SOURCE, tile)
        z = tl.where(valid, tl.where(excluded, -INFINITY, z), float("nan"))
        tl.store(out + row * out_stride + ids, z, mask=ids < mix.vocab_size)
