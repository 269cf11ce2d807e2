"""Token statistics against their definitions in fp64."""

import pytest
import torch

import eft_ext
from eft_ext.dynamics.statistics import score_tokens, token_statistics


def definitions(logits, targets):
    pi = logits.double().softmax(-1)
    top, argmax = pi.max(-1)
    others = pi.scatter(-1, argmax[:, None], 0.0).sum(-1)
    one_hot = torch.nn.functional.one_hot(targets, logits.shape[1])
    a = torch.eye(logits.shape[1]).double() - pi[:, None]
    return {
        "log_prob": pi.gather(-1, targets[:, None]).squeeze(-1).log(),
        "argmax": argmax,
        "argmax_log_prob": top.log(),
        "log_rest": others.log(),
        "entropy": -torch.special.xlogy(pi, pi).sum(-1),
        "pi_squared": pi.square().sum(-1),
        "a_norm": a.flatten(1).norm(dim=-1),
        "g_norm": (pi - one_hot).norm(dim=-1),
    }


def test_against_the_definitions():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 60, generator=generator)
    targets = torch.randint(60, (200,), generator=generator)
    logits[:50] += 25 * torch.nn.functional.one_hot(targets[:50], 60)  # near certain, and right
    logits[50:70, 5] += 40  # near certain, and mostly wrong
    found = token_statistics(logits, targets)
    expected = definitions(logits, targets)
    for name in found._fields:
        torch.testing.assert_close(
            getattr(found, name), expected[name].to(getattr(found, name).dtype), rtol=1e-4, atol=1e-6
        )
    torch.testing.assert_close(found.a_norm(60), expected["a_norm"].float())
    g = found.g_norm
    certain = expected["g_norm"] < 1e-3
    assert certain.any()
    torch.testing.assert_close(g[~certain], expected["g_norm"].float()[~certain], rtol=1e-3, atol=0)
    # What rounding leaves of a vanishing norm is within a factor of √2 of it.
    ratio = g[certain] / expected["g_norm"].float()[certain]
    assert ((ratio > 0.7) & (ratio < 1.42)).all()


def test_certainty_gives_no_nan():
    logits = torch.zeros(3, 10)
    logits[0, 4] = 90.0
    logits[1] = -torch.inf
    logits[1, 2:4] = 0.0
    logits[2, 1] = 5000.0
    found = token_statistics(logits, torch.tensor([4, 2, 1]))
    assert all(x.isfinite().all() for x in found)
    assert found.log_rest[0] < -80
    assert found.log_rest[2] < -4000


def test_chunks_change_nothing(monkeypatch):
    logits = torch.randn(37, 20, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(37) % 20
    whole = token_statistics(logits, targets)
    monkeypatch.setattr("eft_ext.dynamics.statistics.CHUNK_BYTES", 500)
    for a, b in zip(token_statistics(logits, targets), whole, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_kernel_against_the_plain_form(dtype):
    """With near certain tokens, right and wrong."""
    assert eft_ext.backends()["cpu"].available
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(21, 300, generator=generator)).to(dtype)
    targets = torch.randint(300, (21,), generator=generator)
    logits[range(4), targets[:4]] += 30
    logits[4:8, 9] += 30
    found = score_tokens(logits, targets)
    expected = token_statistics(logits.double(), targets)
    for name, a, b in zip(found._fields, found, expected, strict=True):
        assert a.dtype == b.dtype, name
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(found.a_norm(300), expected.a_norm(300), rtol=1e-5, atol=0)
