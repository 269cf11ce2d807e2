"""Exponentials and logarithms that keep their digits: for statistics, never for tokens (docs/internals/score.md)."""

import triton
import triton.language as tl

from eft_ext.ops.triton.common.arithmetic import LN_2, LOG2_E, atanh, exp2_fraction, log2

UNDERFLOW = tl.constexpr(-87.0)

# log2(e) in two fp32 parts, or the product's rounding alone would cost 1e-6 at x = -20.
_HIGH = tl.constexpr(float.fromhex("0x1.715476p0"))
_LOW = tl.constexpr(float.fromhex("0x1.4ae0cp-26"))
_ROUNDS = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it leaves no bits for a fraction
# ln(2) in two parts, the first so short that its product with a small integer is exact in double.
_LN_2_HIGH = tl.constexpr(float.fromhex("0x1.62e42feep-1"))
_LN_2_LOW = tl.constexpr(float.fromhex("0x1.a39ef35793c76p-33"))
_ROUNDS_64 = tl.constexpr(6755399441055744.0)  # 1.5 * 2^52


@triton.jit
def exp_live(x):
    """exp(x) for fp32 x from -87 to 0, relative error below 2e-7; something positive below, and for NaN."""
    y = tl.maximum(x, UNDERFLOW)
    # Rounded half a unit down: the fraction comes out between 0 and 1, but for what rounding adds.
    whole = tl.fma(y, _HIGH, -0.5) + _ROUNDS
    n = whole - _ROUNDS
    p = exp2_fraction(tl.fma(y, _LOW, tl.fma(y, _HIGH, -n)))
    # The integer stands in the lowest bits of `whole`; above them is nothing that a shift by 23 leaves.
    scaled = p.to(tl.int32, bitcast=True) + (whole.to(tl.int32, bitcast=True) << 23)
    return scaled.to(tl.float32, bitcast=True)


@triton.jit
def exp_or_zero(x):
    """exp(x) for fp32 x <= 0; 0 from -87 down, and for NaN."""
    return tl.where(x > UNDERFLOW, exp_live(x), 0.0)


@triton.jit
def exp64(x):
    """exp(x) for fp64 x <= 0, relative error below 1e-15; 0 from -700 down."""
    live = x > -700.0
    x = tl.where(live, x, 0.0)
    n = (x * LOG2_E + _ROUNDS_64) - _ROUNDS_64
    r = (x - n * _LN_2_HIGH) - n * _LN_2_LOW
    p = r * 0.0 + 1.0
    for i in tl.static_range(13, 0, -1):  # 1 + r (1 + r / 2 (1 + r / 3 ...))
        p = p * (r * (1.0 / i)) + 1.0
    power = ((n.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    return tl.where(live, p * power, 0.0)


@triton.jit
def log64(x):
    """log(x) for positive, normal fp64 x."""
    return log2(x) * LN_2


@triton.jit
def log1p64(x):
    """log(1 + x) for fp64 x >= 0, however small."""
    small = x < 0.4
    near = tl.where(small, x, 0.0)
    return tl.where(small, 2.0 * atanh(near / (near + 2.0)), log64(x + 1.0))
