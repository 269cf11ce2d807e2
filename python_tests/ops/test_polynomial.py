"""The polynomial that stands for 2^f, on every fraction i/2^23 of [0, 1] (numerics.md §3)."""

from __future__ import annotations

import pytest
import torch

from eft_ext.ops.reference.mass import exp2_fraction

LAST = 2**23
CHUNK = 2**14  # stays in cache, and below what torch splits over threads


@pytest.mark.slow
def test_polynomial_on_all_fractions() -> None:
    """Relative error below 1.5e-7, monotone, from 1 to below 2, so that m = trunc(P·2^23) has 24 bits."""
    worst, before = 0.0, torch.ones(1)
    for start in range(0, LAST + 1, CHUNK):
        f = torch.arange(start, min(start + CHUNK, LAST + 1)) / LAST
        p = exp2_fraction(f)
        worst = max(worst, (p.double() / torch.exp2(f.double()) - 1).abs().max().item())
        assert bool((torch.cat([before, p]).diff() >= 0).all())
        before = p[-1:]
    assert exp2_fraction(torch.zeros(1)).item() == 1.0
    assert before.item() < 2.0
    assert worst < 1.5e-7
