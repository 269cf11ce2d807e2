"""The arithmetic that every backend shares, on the device: masses, shifts, targets, one log2 (numerics.md).

Nothing may be fused but what is written as `tl.fma`, and subnormals count: the kernels are launched with
`enable_fp_fusion=False`, and with `enable_reflect_ftz=False`, without which `tl.floor` would flush them.
"""

import triton
import triton.language as tl

TILE = tl.constexpr(1024)  # consecutive ids
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
LARGEST = tl.constexpr(3.4028234663852886e38)
INFINITY = tl.constexpr(float("inf"))

_P5 = tl.constexpr(float.fromhex("0x1.e97502p-10"))
_P4 = tl.constexpr(float.fromhex("0x1.277854p-7"))
_P3 = tl.constexpr(float.fromhex("0x1.c91ce6p-5"))
_P2 = tl.constexpr(float.fromhex("0x1.ebdb56p-3"))
_P1 = tl.constexpr(float.fromhex("0x1.62e4bap-1"))


@triton.jit
def exp2_fraction(f):
    """P(f) ~ 2^f for f in [0, 1], fp32 in [1, 2)."""
    p = tl.fma(f, _P5, _P4)
    p = tl.fma(p, f, _P3)
    p = tl.fma(p, f, _P2)
    p = tl.fma(p, f, _P1)
    return tl.fma(p, f, 1.0)


@triton.jit
def token_mass(t, a):
    """w_a: a token's mass at the reference exponent a >= floor(t), uint64; t = -inf has none."""
    n = tl.floor(t)
    d = a - n
    has_mass = d <= 40.0  # false for t = -inf, and where a is -inf too
    f = tl.where(has_mass, t - n, 0.0)
    m = (exp2_fraction(f) * 8388608.0).to(tl.int32)
    shift = tl.where(has_mass, d, 63.0).to(tl.int32)
    return (m.to(tl.uint64) << 17) >> shift.to(tl.uint64)


@triton.jit
def tile_shift(row_reference, tile_reference):
    """The shift from a tile's reference to the row's, uint64; a mass shifted by 63 contributes nothing."""
    d = row_reference - tile_reference
    return tl.where(d <= 63.0, d, 63.0).to(tl.int32).to(tl.uint64)


@triton.jit
def fixed_point(p):
    """floor(2^32 p (1 - 2^-21)) for fp32 p in [0, 1), exact before the floor; 2^32 for 1; uint64."""
    fixed = (p.to(tl.float64) * 4294965248.0).to(tl.int64)  # 2^32 - 2^11
    return tl.where(p < 1.0, fixed, 4294967296).to(tl.uint64)


@triton.jit
def mass_target(p_fix, mass):
    """ceil(p_fix * mass / 2^32), the 96-bit product in two halves; mass < 2^60."""
    part = p_fix * (mass & 0xFFFFFFFF)
    return p_fix * (mass >> 32) + (part >> 32) + ((part & 0xFFFFFFFF) != 0).to(tl.uint64)


@triton.jit
def atanh(s):
    """atanh of a double, |s| < 0.172: the series, the same bits on every backend."""
    q = s * s
    p = q * 0.0 + 1.0 / 23.0
    for odd in tl.static_range(21, 0, -2):
        p = p * q
        p = p + 1.0 / odd
    return s * p


@triton.jit
def log2(x):
    """log2 of a positive, normal double, the same bits on every backend."""
    bits = x.to(tl.int64, bitcast=True)
    m = ((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True)
    high = m > 1.4142135623730951
    m = tl.where(high, m * 0.5, m)
    exponent = (bits >> 52) - 1023 + high.to(tl.int64)
    return exponent.to(tl.float64) + atanh((m - 1.0) / (m + 1.0)) * 2.8853900817779268


@triton.jit
def exp_nonpositive(x):
    """exp(x) for fp32 x <= 0 by the mass polynomial, 0 below -87; for log-probabilities, not for tokens."""
    t = x * LOG2_E
    n = tl.floor(t)
    tiny = ~(n > -126.0)  # true for NaN
    p = exp2_fraction(tl.where(tiny, 0.0, t - n))
    power = ((tl.where(tiny, 0.0, n).to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(tiny, 0.0, p * power)


@triton.jit
def _ordered(x):
    """An int32 that grows with the fp32 x; -0 and +0 share one."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


@triton.jit
def between(low, high):
    """The fp32 halfway in the order of floats: low <= it < high. low < high, both finite."""
    a, b = _ordered(low), _ordered(high)
    middle = (a & b) + ((a ^ b) >> 1)  # rounded down, without overflow
    bits = tl.where(middle < 0, (-middle) | -2147483648, middle)
    return bits.to(tl.float32, bitcast=True)
