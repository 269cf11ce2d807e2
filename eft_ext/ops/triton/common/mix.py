"""The logits of tokens: the mixture's, one model's alone, or the conservative re-weighting of three."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import INFINITY, LOG2_E, TILE
from eft_ext.ops.triton.common.options import load_real

# Where a kernel takes its logits from: model k alone (0 to 3), the mixture, or 10 + k: the mixture re-weighted
# inside the nucleus of model k.
MIXTURE = tl.constexpr(-1)
REWEIGHTED = tl.constexpr(10)


class KernelMix(NamedTuple):
    """K models' logits and how they are combined, as the kernels take them.

    Where rows have positions, a `flat_row` is row * positions + position; elsewhere it is the row. `row_of` has the row
    of the batch, which weights and bias belong to.
    """

    logits: tuple[Any, ...]  # K of [B, V_k], or [B, positions, V_k]
    strides: tuple[int, ...]  # of the rows, in elements
    weights: tuple[Any, ...]  # K of KernelReal
    vocab_size: int
    conservative_top_p: Any  # KernelReal
    drop: int  # 1 excludes the tokens outside of S
    bias: Any
    bias_stride: int
    token_bitmask: Any
    token_bitmask_stride: int
    positions: Any = None  # of a row; None: there are none
    position_strides: tuple[int, ...] = ()
    token_bitmask_position_stride: int = 0
    special_tiles: Any = None  # of `SpecialMasks`; None: there are no special tokens
    special_masks: Any = None
    owner: Any = None  # K of 1 for the model whose own tokens there are, else None; None: there are no own tokens


@triton.jit
def row_of(mix, flat_row):
    """The row of the batch, int64."""
    if mix.positions is None:
        return flat_row
    else:
        return (flat_row.to(tl.int32) // mix.positions).to(tl.int64)


@triton.jit
def _position_of(mix, flat_row):
    return (flat_row.to(tl.int32) % mix.positions).to(tl.int64)


@triton.jit
def _widened(x):
    """fp32, exactly; by shifting, because Triton's interpreter converts bf16's subnormals wrongly."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)


@triton.jit
def _is_lowest(x):
    """-inf or the dtype's lowest finite value; x as it was loaded."""
    if x.dtype == tl.bfloat16:
        return _widened(x) <= -3.3895313892515355e38
    elif x.dtype == tl.float16:
        return _widened(x) <= -65504.0
    else:
        return x <= -3.4028234663852886e38


@triton.jit
def load_model(mix, flat_row, ids, k: tl.constexpr):
    """Model k's logits of the tokens `ids`, as they are stored; 0 behind the vocabulary."""
    at = mix.logits[k] + row_of(mix, flat_row) * mix.strides[k] + ids
    if mix.positions is not None:
        at += _position_of(mix, flat_row) * mix.position_strides[k]
    return tl.load(at, mask=ids < mix.vocab_size, other=0.0)


@triton.jit
def load_models(mix, flat_row, ids):
    """All K models'."""
    raw = ()
    for k in tl.static_range(len(mix.logits)):
        raw = raw + (load_model(mix, flat_row, ids, k),)  # type: ignore[assignment] # noqa: RUF005
    return raw


@triton.jit
def model_logits(mix, raw, ids, k: tl.constexpr):
    """Model k's own logits, fp32, and which it excludes itself."""
    return _widened(raw[k]), _is_lowest(raw[k]) | (ids >= mix.vocab_size)


@triton.jit
def finite_model_logits(mix, x, ids):
    """A model's own logits, fp32: -inf where it excludes, and, since something else must then have excluded the token
    from the mixture, where it has NaN or +inf. x: as of `load_model`."""
    out = _is_lowest(x) | (ids >= mix.vocab_size)
    return tl.where(out | ~(_widened(x) < INFINITY), -INFINITY, _widened(x))


@triton.jit
def _apply_bias_and_bitmask(mix, flat_row, ids, z, excluded):
    """Adds the bias, excludes what `token_bitmask` forbids and what lies behind the vocabulary."""
    inside = ids < mix.vocab_size
    if mix.bias is not None:
        z = z + tl.load(mix.bias + row_of(mix, flat_row) * mix.bias_stride + ids, mask=inside, other=0.0)
    if mix.token_bitmask is not None:
        at = mix.token_bitmask + row_of(mix, flat_row) * mix.token_bitmask_stride + ids // 32
        if mix.positions is not None:
            at += _position_of(mix, flat_row) * mix.token_bitmask_position_stride
        word = tl.load(at, mask=inside, other=0)
        excluded |= ((word >> (ids % 32)) & 1) == 0
    return z, excluded | ~inside


@triton.jit
def _mixture(mix, flat_row, raw, ids):
    excluded = _is_lowest(raw[0])
    z = _widened(raw[0]) * load_real(mix.weights[0], row_of(mix, flat_row))
    for k in tl.static_range(1, len(mix.logits)):
        excluded |= _is_lowest(raw[k])
        z = tl.fma(_widened(raw[k]), load_real(mix.weights[k], row_of(mix, flat_row)), z)
    return _apply_bias_and_bitmask(mix, flat_row, ids, z, excluded)


@triton.jit
def _reweighted(mix, flat_row, raw, ids, nucleus, DEFINING: tl.constexpr):
    """Inside S: scale*large + tuned - scale*base + delta; outside: tuned, or excluded. nucleus: see conservative.py."""
    x, excluded = model_logits(mix, raw, ids, DEFINING)
    t = scaled(x, excluded, tl.cast(LOG2_E, tl.float32))
    inside = (t > nucleus[0]) | ((t == nucleus[0]) & (ids <= nucleus[1]))
    mixed = _widened(raw[0]) * load_real(mix.weights[0], row_of(mix, flat_row))
    for k in tl.static_range(1, 3):
        mixed = tl.fma(_widened(raw[k]), load_real(mix.weights[k], row_of(mix, flat_row)), mixed)
    z = tl.where(inside, mixed + nucleus[2], _widened(raw[1]))
    excluded = _is_lowest(raw[0]) | _is_lowest(raw[1]) | _is_lowest(raw[2]) | ((mix.drop != 0) & ~inside)
    return _apply_bias_and_bitmask(mix, flat_row, ids, z, excluded)


@triton.jit
def owner_logits(mix, flat_row, raw, ids):
    """The owner's logits with the bias, and which tokens it, or its weight, or `token_bitmask` excludes."""
    x, excluded, weight = _widened(raw[0]), _is_lowest(raw[0]), mix.weights[0]
    for k in tl.static_range(1, len(mix.logits)):
        if mix.owner[k] is not None:
            x, excluded, weight = _widened(raw[k]), _is_lowest(raw[k]), mix.weights[k]
    listened_to = (load_real(weight, row_of(mix, flat_row)) > 0.0).to(tl.int32)  # the interpreter spreads no boolean
    excluded |= listened_to == 0
    return _apply_bias_and_bitmask(mix, flat_row, ids, x, excluded)


@triton.jit
def _with_special(mix, flat_row, raw, ids, z, excluded, own_delta):
    """z and `excluded` as numerics.md §15 has them at special tokens; `own_delta` None: all of these are excluded."""
    slot = tl.load(mix.special_tiles + ids // TILE, mask=ids < mix.vocab_size, other=-1)
    at = mix.special_masks + slot * 64 + ids % TILE // 32
    special = ((tl.load(at, mask=slot >= 0, other=0) >> (ids % 32)) & 1) != 0
    if own_delta is None:
        return z, excluded | special
    else:
        own = ((tl.load(at + 32, mask=slot >= 0, other=0) >> (ids % 32)) & 1) != 0
        tau, without = owner_logits(mix, flat_row, raw, ids)
        return tl.where(own, tau + own_delta, z), tl.where(special, without | ~own, excluded)


@triton.jit
def logits_of(mix, flat_row, raw, ids, nucleus, SOURCE: tl.constexpr, tile=None):
    """z of the tokens `ids`, fp32, and which of them are excluded. raw: as of `load_models`.

    tile: the one that all ids are of, if it is not known to have special tokens. Most have none: no mask is read.
    """
    if (SOURCE == MIXTURE) | (SOURCE >= REWEIGHTED):
        if SOURCE == MIXTURE:
            z, excluded = _mixture(mix, flat_row, raw, ids)
        else:
            z, excluded = _reweighted(mix, flat_row, raw, ids, nucleus, SOURCE - REWEIGHTED)
        if mix.special_tiles is not None:
            if tile is None:  # noqa: SIM114 (the compiler's)
                z, excluded = _with_special(mix, flat_row, raw, ids, z, excluded, nucleus[3])
            elif tl.load(mix.special_tiles + tile) >= 0:
                z, excluded = _with_special(mix, flat_row, raw, ids, z, excluded, nucleus[3])
        return z, excluded
    else:
        return model_logits(mix, raw, ids, SOURCE)


@triton.jit
def scaled(z, excluded, c):
    """t = z c; -inf where excluded or overflown, +inf for what makes the row invalid (NaN, +inf)."""
    t = tl.where(excluded, -INFINITY, z * c)
    return tl.where(t < INFINITY, t, INFINITY)


@triton.jit
def row_t(mix, flat_row, ids, c, nucleus, SOURCE: tl.constexpr, tile=None):
    """t of the tokens `ids`, read again: the same operations, hence the same bits."""
    z, excluded = logits_of(mix, flat_row, load_models(mix, flat_row, ids), ids, nucleus, SOURCE, tile)
    return scaled(z, excluded, c)
