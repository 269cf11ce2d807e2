"""Limits among tens of thousands of candidates, where the CPU step samples first (csrc/cpu/bracket.h)."""

import pytest
import torch

from eft_ext.ops import fused_mix, fused_step
from python_tests.ops.rows import models

VOCAB = 70_001  # samples are taken from 8,192 on, lists end at 16,384
OPTIONS = [
    {"top_p": 0.9},
    {"top_p": 0.5, "temperature": 3.0},
    {"top_p": 0.999},
    {"top_p": 1e-4},
    {"top_p": 0.97, "temperature": 50.0},
    {"top_k": 2000},
    {"top_k": 50_000},
    {"top_k": 60_000, "top_p": 0.9},
    {"top_k": 30_000, "top_p": 0.9999},
    {"top_k": 70_000, "top_p": 0.5, "min_p": 0.01},
    {"min_p": 1e-5},
    {"min_p": 0.9},
]


@pytest.mark.parametrize("rows", ["flat", "equal", "two_level", "bf16_ties", "lm", "wide", "masked", "huge"])
def test_every_limit_is_the_references(rows):
    logits = models(rows, 3, 1, VOCAB, torch.bfloat16)
    for options in OPTIONS:
        got, want = (
            fused_mix(logits, [1, 1, -1], seed=4, position=1, backend=name, return_details=True, **options)
            for name in ("cpu", "reference")
        )
        assert torch.equal(got.tokens, want.tokens), options
        assert torch.equal(got.kept, want.kept), options


@pytest.mark.parametrize("outside", ["keep", "drop"])
def test_a_wide_conservative_nucleus(outside):
    for rows in ("flat", "lm", "equal"):
        logits = models(rows, 3, 1, VOCAB, torch.bfloat16)
        options = {"scale": 1.3, "conservative_top_p": 0.9, "conservative_outside": outside, "top_p": 0.9}
        got, want = (
            fused_step(*logits, seed=4, position=1, backend=name, return_details=True, **options)
            for name in ("cpu", "reference")
        )
        assert torch.equal(got.tokens, want.tokens), rows
        assert torch.equal(got.kept, want.kept), rows
