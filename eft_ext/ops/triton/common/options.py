"""Options as the kernels take them, and one row's, resolved and checked."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import LARGEST, LOG2_E, fixed_point, log2


class KernelReal(NamedTuple):
    """`Real` as the kernels take it: `value` for every row, or value * rows[row * stride]."""

    value: Any
    rows: Any
    stride: Any


class Options(NamedTuple):
    """The options of a draw; integers that are no tensors are kernel arguments of their own."""

    temperature: KernelReal
    top_p: KernelReal
    min_p: KernelReal
    top_k_rows: Any  # int64 [B] or None
    seed_rows: Any
    position_rows: Any


@triton.jit
def load_real(option, row):
    value = tl.cast(option.value, tl.float32)
    if option.rows is None:
        return value
    else:
        return value * tl.load(option.rows + row * option.stride)


@triton.jit
def load_integer(value, rows, row):
    if rows is None:
        return tl.cast(value, tl.int64)
    else:
        return tl.load(rows + row)


@triton.jit
def is_greedy(temperature):
    return temperature < 0.00000095367431640625  # 2^-20


@triton.jit
def scale_of(temperature):
    """c = fp32(log2(e) / temperature), divided in double; 1 where greedy, so that t = z."""
    greedy = is_greedy(temperature)
    divisor = tl.where(greedy, 1.0, temperature).to(tl.float64)
    return tl.where(greedy, 1.0, (tl.full((), LOG2_E, tl.float64) / divisor).to(tl.float32))


@triton.jit
def min_p_offset(min_p):
    """fp32(log2(min_p)), -inf where it is off."""
    on = min_p > 0.0
    return tl.where(on, log2(tl.where(on, min_p, 1.0).to(tl.float64)).to(tl.float32), float("-inf"))


@triton.jit
def _is_fraction(p):
    return (p >= 0.0) & (p <= 1.0)


@triton.jit
def mixture_is_valid(mix, row):
    """True where the row's weights are finite and its conservative nucleus is a probability."""
    valid = _is_fraction(load_real(mix.conservative_top_p, row))
    for k in tl.static_range(len(mix.logits)):
        valid &= tl.abs(load_real(mix.weights[k], row)) <= LARGEST
    return valid


@triton.jit
def options_are_valid(sampling, top_k, position, row):
    temperature = load_real(sampling.temperature, row)
    valid = (temperature >= 0.0) & (temperature <= LARGEST)
    valid &= _is_fraction(load_real(sampling.top_p, row)) & _is_fraction(load_real(sampling.min_p, row))
    return valid & (top_k >= 0) & (position >= 0)


@triton.jit
def fixed_top_p(option, row):
    """A probability in fixed point, uint64; 2^32 is off."""
    p = load_real(option, row)
    return fixed_point(tl.where(_is_fraction(p), p, 1.0))
