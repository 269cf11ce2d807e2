"""The mixture's logits themselves, for other people's processors."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, TILE
from eft_ext.ops.triton.common.conservative import find_nucleus
from eft_ext.ops.triton.common.mix import MIXTURE, REWEIGHTED, load_models, logits_of
from eft_ext.ops.triton.common.options import mixture_is_valid


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
        nucleus = (0.0, 0, 0.0)
    for tile in range(first, tl.minimum(first + TILES, num_tiles)):
        ids = tile * TILE + tl.arange(0, TILE)
        z, excluded = logits_of(mix, row, load_models(mix, row, ids), ids, nucleus, SOURCE)
        z = tl.where(valid, tl.where(excluded, -INFINITY, z), float("nan"))
        tl.store(out + row * out_stride + ids, z, mask=ids < mix.vocab_size)
