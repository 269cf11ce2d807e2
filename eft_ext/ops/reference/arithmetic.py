"""The arithmetic every backend shares: a fused multiply-add and one published log2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOG2_E = 1.4426950408889634  # log2(e), the double nearest
LN_2 = 0.6931471805599453  # ln(2), the double nearest
TWO_OVER_LN_2 = 2.8853900817779268  # 2 / ln(2), the double nearest


def fma32(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a·b + c with one rounding, for fp32 tensors that broadcast; subnormals, infinities and NaN as IEEE 754.

    The product of two 24-bit significands is exact in float64. The sum is rounded to odd, which keeps the
    information a second rounding needs (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded
    sums"), so the conversion to fp32 is the only rounding that counts.
    """
    product = a.double() * b.double()
    addend = c.double()
    total = product + addend
    # TwoSum (Knuth): total + error is the exact sum.
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    bits = total.view(torch.int64)
    even = (bits & 1) == 0
    # The pattern plus one lies away from zero, minus one towards it; either neighbour of an even one is odd.
    neighbour = bits + torch.where((error > 0) == (total > 0), 1, -1)
    odd = torch.where(even & (error != 0) & total.isfinite(), neighbour, bits)
    return odd.view(torch.float64).float()


def inverse_temperature(temperature: Tensor) -> Tensor:
    """c = fp32(log2(e) / temperature), divided in double; temperature and result fp32 [B]."""
    return (LOG2_E / temperature.double()).float()


def scaled(z: Tensor, c: Tensor) -> Tensor:
    """t = z·c in fp32, where -0 counts as +0. z: [B, V], c: [B]."""
    return z * c[:, None] + 0.0


def log2(x: float) -> float:
    """Base-2 logarithm of x > 0 in double, the same bits on every backend: no fma, no library function.

    x = m·2^e with m in (sqrt(1/2), sqrt(2)]; log2(x) = e + 2/ln2 · atanh(s), s = (m - 1)/(m + 1), and
    atanh(s)/s is twelve terms of its series in s², whose remainder is below 2^-65 at |s| = 0.1716.
    """
    m, e = math.frexp(x)
    m, e = m * 2.0, e - 1
    if m > 1.4142135623730951:
        m, e = m / 2.0, e + 1
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    p = 1.0 / 23.0
    for odd in range(21, 0, -2):
        p = p * q + 1.0 / odd
    return e + (s * p) * TWO_OVER_LN_2
