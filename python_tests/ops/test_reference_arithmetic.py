"""The fused multiply-add against exact rationals, log2, and the generators against published vectors."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eft_ext.ops.reference import fma32, log2, philox4x32, random_bits, row_seed
from eft_ext.ops.reference.arithmetic import inverse_temperature
from eft_ext.ops.reference.mass import mass_threshold

LARGEST = Fraction(2**24 - 1) * Fraction(2) ** 104


def rounded(x: Fraction) -> float:
    """x to the nearest fp32, ties to even, by integers alone."""
    if x == 0:
        return 0.0
    size = abs(x)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if size < Fraction(2) ** exponent:
        exponent -= 1
    ulp = Fraction(2) ** max(exponent - 23, -149)
    nearest = round(size / ulp) * ulp  # Fraction rounds half to even
    value = float(nearest) if nearest <= LARGEST else math.inf
    return value if x > 0 else -value


def fma(a: float, b: float, c: float) -> float:
    return fma32(*(torch.tensor([v], dtype=torch.float32) for v in (a, b, c))).item()


def expect_exact(a: float, b: float, c: float) -> None:
    assert fma(a, b, c) == rounded(Fraction(a) * Fraction(b) + Fraction(c)), (a.hex(), b.hex(), c.hex())


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
moderate = st.floats(width=32, min_value=-(2.0**20), max_value=2.0**20)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(finite, finite, finite)
def test_fma_is_exact(a: float, b: float, c: float) -> None:
    expect_exact(a, b, c)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(moderate, moderate, moderate)
def test_fma_is_exact_where_terms_meet(a: float, b: float, c: float) -> None:
    expect_exact(a, b, c)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0, 40, -124, -126, -130], ids=lambda s: f"2^{s}")
def test_fma_decides_halfway_cases_by_the_smallest_addend(scale: int) -> None:
    """Odd 13-bit factors whose product has 25 or 26 bits: many lie halfway between two fp32, and at the lower
    scales between two subnormals. The smallest addend decides, which a plain double sum would have lost."""
    rng = random.Random(scale)
    for _ in range(200):
        a, b = (rng.randrange(5793, 8192, 2) * 2.0 ** (-12) for _ in range(2))
        for c in (0.0, 2.0**-149, -(2.0**-149)):
            expect_exact(a * 2.0 ** (scale // 2), b * 2.0 ** (scale - scale // 2), c)


def test_fma_rounds_once_where_double_rounding_fails() -> None:
    """The product is 2^-24 - 2^-70: beside 1 a double drops the 2^-70 and leaves a tie, decided wrongly."""
    a, b, c = 2.0**-12 + 2.0**-35, 2.0**-12 - 2.0**-35, 1.0 + 2.0**-23
    assert fma(a, b, c) == c
    assert fma(-a, b, c) == c


def test_fma_at_the_edges() -> None:
    inf, nan = math.inf, math.nan
    assert fma(inf, 2.0, 1.0) == inf
    assert fma(1.0, 1.0, -inf) == -inf
    assert fma(3e38, 2.0, 0.0) == inf
    assert fma(-3e38, 2.0, 1e38) == -inf
    assert fma(3e38, 2.0, -3e38) == pytest.approx(3e38)  # no overflow on the way
    for a, b, c in ((inf, 0.0, 1.0), (inf, 1.0, -inf), (nan, 0.0, 0.0), (1.0, 1.0, nan)):
        assert math.isnan(fma(a, b, c))
    assert math.copysign(1.0, fma(-1.0, 0.0, -0.0)) == -1.0
    assert math.copysign(1.0, fma(1.0, 1.0, -1.0)) == 1.0


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_log2(x: float) -> None:
    assert log2(x) == pytest.approx(math.log2(x), rel=4e-16, abs=4e-16)


def test_log2_is_exact_on_powers_of_two() -> None:
    assert all(log2(math.ldexp(1.0, e)) == e for e in range(-1074, 1024))


def test_temperature_is_divided_in_double() -> None:
    heat = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 3 + 2.0**-20
    expected = [rounded(Fraction(1.4426950408889634 / t)) for t in heat.tolist()]
    assert inverse_temperature(heat).tolist() == expected


def test_mass_threshold_is_a_ceiling_of_an_exact_product() -> None:
    p = torch.tensor([0.25, 0.25, 0.5, 0.9, 2.0**-33, 1.5 * 2.0**-32, 1.0 - 2.0**-24])
    mass = torch.tensor([3, 4, 1, 2**58 - 1, 2**58, 2**40, 2**58 + 1])
    # floor(2^32·p·(1 - 2^-21))
    fixed = [2**30 - 2**9, 2**30 - 2**9, 2**31 - 2**10, 3865468620, 0, 1, 2**32 - 2**11 - 2**8]
    assert fixed == [math.floor(Fraction(x) * (2**32 - 2**11)) for x in p.tolist()]
    expected = [math.ceil(Fraction(a * b, 2**32)) for a, b in zip(fixed, mass.tolist(), strict=True)]
    assert mass_threshold(p, mass).tolist() == expected


@pytest.mark.parametrize(
    ("counter", "key", "out"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter: str, key: str, out: str) -> None:
    """The vectors published with Random123 (kat_vectors, philox4x32 10)."""

    def words(text: str) -> tuple[int, ...]:
        return tuple(int(word, 16) for word in text.split())

    c0, c1, c2, c3 = words(counter)
    k0, k1 = words(key)
    assert philox4x32((c0, c1, c2, c3), (k0, k1)) == words(out)


def test_random_bits_lays_out_key_and_counter() -> None:
    out = philox4x32((0x89ABCDEF, 0x01234567, 5, 2), (0x76543210, 0xFEDCBA98))
    bits = random_bits(0xFEDCBA9876543210, 0x0123456789ABCDEF, draw=5, purpose=2)
    assert bits == out[1] << 32 | out[0]
    assert random_bits(-1, 0) == random_bits(2**64 - 1, 0)


def test_row_seed_is_splitmix64() -> None:
    """The first outputs of SplitMix64 from state 0, as in its author's C code."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [row_seed(0, b) for b in range(3)] == expected
    assert row_seed(0x9E3779B97F4A7C15, 0) == expected[1]
