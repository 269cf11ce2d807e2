"""The number of tokens to draft: the one that pays is found."""

import pytest
import torch

from eft_ext.decoding.speculative.draft_length import Adaptive, expected_tokens


def test_expected_tokens():
    for a in (0.0, 0.3, 0.9):
        assert expected_tokens(5, a) == pytest.approx((1 - a**6) / (1 - a))
    assert expected_tokens(3, 1.0) == 4


@pytest.mark.parametrize(
    ("acceptance", "fixed", "each", "least", "most"),
    [
        (0.95, 1.0, 0.05, 8, 16),  # drafting is cheap and right
        (0.7, 1.0, 0.1, 2, 6),
        (0.05, 1.0, 0.5, 0, 1),  # hardly ever right
        (0.9, 1.0, 2.0, 0, 1),  # drafts cost as much as they bring
    ],
)
def test_auto_finds_what_pays(acceptance, fixed, each, least, most):
    schedule = Adaptive()
    best = max(range(17), key=lambda k: expected_tokens(k, acceptance) / (fixed + each * k))
    noise = torch.Generator().manual_seed(0)
    chosen = []
    for _ in range(300):
        k = schedule.draft_length()
        chosen.append(k)
        decided = accepted = 0
        for _ in range(k):
            decided += 1
            if torch.rand((), generator=noise) > acceptance:
                break
            accepted += 1
        seconds = (fixed + each * k) * float(1 + 0.1 * torch.rand((), generator=noise))
        schedule.observe(k, decided, accepted, seconds)
    assert least <= best <= most
    usual = sorted(chosen[100:])[100]
    gain = [expected_tokens(k, acceptance) / (fixed + each * k) for k in (usual, best)]
    assert gain[0] > 0.93 * gain[1], (usual, best)
