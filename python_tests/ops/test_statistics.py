"""Frequencies: what is drawn follows the distribution that the float64 oracle states (SPEC §5)."""

import numpy as np
import pytest
import torch
from scipy import stats

from eft_ext.ops import fused_mix, reference
from python_tests.ops.rows import models

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
        ("lm", 1000, {}),
        ("lm", 1500, {"top_p": 0.9, "temperature": 0.7}),
        ("flat", 300, {}),
        ("two_level", 100, {"top_p": 0.5}),
        ("bf16_ties", 200, {"top_k": 20}),
        ("wide", 1000, {"temperature": 4.0, "min_p": 0.02}),
    ],
)
def test_frequencies(rows, vocab, options):
    logits, weights = models(rows, 3, 1, vocab), [1.0, 1.0, -1.0]
    probs = reference.distribution(logits, weights, **options)[0].numpy()
    counts = np.bincount(draw_many(logits, weights, **options), minlength=vocab)
    assert counts[probs == 0].sum() == 0, "a filtered token was drawn"

    order = np.argsort(-probs)
    expected, observed = probs[order] * DRAWS, counts[order]
    split = int((expected >= 20).sum())
    pooled = [expected[split:].sum()] if expected[split:].sum() > 5 else []
    f_exp = np.concatenate([expected[:split], pooled])
    f_obs = np.concatenate([observed[:split], [observed[split:].sum()] if pooled else []])
    p_value = stats.chisquare(f_obs, f_exp * f_obs.sum() / f_exp.sum()).pvalue
    assert p_value > 1e-5, f"chi-square p = {p_value:.2e}"


@pytest.mark.parametrize("nats", [18.0, 20.0])
def test_the_far_tail_has_its_mass(nats):
    """32,000 tokens `nats` below one peak. Noise in fp32 (a floor of 2^-24) would draw far too many."""
    tail, draws = 32_000, 200_000
    row = torch.full((1, tail + 1), -nats)
    row[0, 777] = 0.0
    share = tail * np.exp(-nats) / (1 + tail * np.exp(-nats))
    seen = int((draw_many([row], [1.0], draws) != 777).sum())
    z = (seen - draws * share) / np.sqrt(draws * share * (1 - share))
    assert abs(z) < 4.5, f"{seen} of {draws} in the tail, expected {draws * share:.1f}"
