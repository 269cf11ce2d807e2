"""Frequencies: what is drawn follows the distribution that the float64 oracle states (numerics.md §14)."""

import numpy as np
import pytest
import torch
from scipy import stats

from eft_ext.ops import fused_mix, reference
from eft_ext.ops.reference import random_bits
from python_tests.helpers.rows import models

DRAWS = 1_000_000
ROWS_AT_ONCE = 250


def draw_many(logits, weights, draws=DRAWS, **options):
    """`draws` tokens of one row of K models: copies of the row share a step, positions count the steps."""
    copies = [x.expand(ROWS_AT_ONCE, -1) for x in logits]
    seeds = torch.arange(ROWS_AT_ONCE)
    steps = range(draws // ROWS_AT_ONCE)
    return torch.cat([fused_mix(copies, weights, seed=seeds, position=p, **options) for p in steps]).numpy()


@pytest.mark.parametrize(
    ("rows", "vocab", "options"),
    [
        pytest.param("lm", 1000, {}, marks=pytest.mark.slow),
        pytest.param("lm", 600, {"top_p": 0.9, "temperature": 1.5}, marks=pytest.mark.slow),
        ("flat", 300, {}),
        pytest.param("two_level", 100, {"top_p": 0.5}, marks=pytest.mark.slow),
        pytest.param("bf16_ties", 200, {"top_k": 20}, marks=pytest.mark.slow),
        pytest.param("wide", 1000, {"temperature": 15.0, "min_p": 0.002}, marks=pytest.mark.slow),
        pytest.param("cliffs", 2100, {"temperature": 5.0}, marks=pytest.mark.slow),
    ],
)
def test_frequencies(rows, vocab, options):
    logits, weights = models(rows, 3, 1, vocab), [1.0, 1.0, -1.0]
    probs = reference.distribution(logits, weights, **options)[0].numpy()
    counts = np.bincount(draw_many(logits, weights, **options), minlength=vocab)
    assert counts[probs == 0].sum() == 0, "a filtered token was drawn"

    p_value = chi_square(counts, probs)
    assert p_value > 1e-5, f"chi-square p = {p_value:.2e}"

    # Whether the test would see an error: one draw in a hundred given to the token next in rank.
    first, second = np.argsort(-probs)[:2]
    moved = min(DRAWS // 100, counts[first])
    counts[first] -= moved
    counts[second] += moved
    assert chi_square(counts, probs) < 1e-5


def chi_square(counts, probs):
    """The p-value of the counts, tokens with less than 20 expected draws pooled into one cell."""
    order = np.argsort(-probs)
    expected, observed = probs[order] * counts.sum(), counts[order]
    split = int((expected >= 20).sum())
    pooled = [expected[split:].sum()] if expected[split:].sum() > 5 else []
    f_exp = np.concatenate([expected[:split], pooled])
    f_obs = np.concatenate([observed[:split], [observed[split:].sum()] if pooled else []])
    return stats.chisquare(f_obs, f_exp * f_obs.sum() / f_exp.sum()).pvalue


TAIL = 32_000


def tail_row(nats, peak):
    """32,000 tokens `nats` below one peak, and their share of the probability."""
    row = torch.full((1, TAIL + 1), -nats)
    row[0, peak] = 0.0
    return row, TAIL * np.exp(-nats) / (1 + TAIL * np.exp(-nats))


def assert_frequency(seen, draws, share):
    z = (seen - draws * share) / np.sqrt(draws * share * (1 - share))
    assert abs(z) < 4.5, f"{seen} of {draws} in the tail, expected {draws * share:.1f}, z = {z:.1f}"


@pytest.mark.slow
def test_the_tail_has_its_mass():
    """Noise in fp32 (a floor of 2^-24) would draw far too many. 97 expected: a factor of 1.5 is seen."""
    row, share = tail_row(18.0, peak=777)
    assert_frequency(int((draw_many([row], [1.0], 200_000) != 777).sum()), 200_000, share)


def philox_bits(seed, positions):
    """The 64 random bits of one seed at many positions: Philox4x32-10 in numpy, uint64."""
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    c = [positions & mask, positions >> shift, np.zeros_like(positions), np.zeros_like(positions)]
    k0, k1 = np.uint64(seed), np.uint64(0)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(b >> shift) ^ c[1] ^ k0, b & mask, (a >> shift) ^ c[3] ^ k1, a & mask]
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & mask, (k1 + np.uint64(0xBB67AE85)) & mask
    return c[0] | c[1] << shift


@pytest.mark.slow
@pytest.mark.parametrize("nats", [18.0, 20.0])
def test_ten_million_draws_of_the_far_tail(nats):
    """The peak is token 0, so only draws with high bits leave it: the other 127 in 128 are counted, not made.

    Expected are 4900 and 660: z reaches 4.5 where the tail is off by 6 and 18 percent.
    """
    assert random_bits(5, 123) == int(philox_bits(5, np.array([123], dtype=np.uint64))[0])
    row, share = tail_row(nats, peak=0)
    draws, block, seen = 10_000_000, 1_000_000, 0
    for first in range(0, draws, block):
        positions = np.arange(first, first + block, dtype=np.uint64)
        high = philox_bits(5, positions) >= np.uint64(2**64 - 2**57)
        some = torch.from_numpy(positions[high].astype(np.int64))
        seeds = torch.full_like(some, 5)
        tokens = fused_mix([row.expand(len(some), -1)], [1.0], seed=seeds, position=some)
        seen += int((tokens != 0).sum())
    assert_frequency(seen, draws, share)
    low = torch.from_numpy(positions[~high][:1000].astype(np.int64))
    assert (fused_mix([row.expand(1000, -1)], [1.0], seed=seeds[:1].expand(1000), position=low) == 0).all()
