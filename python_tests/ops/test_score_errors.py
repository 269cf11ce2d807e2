"""Scoring: what wrong input gets, and which backend a call goes to."""

import math
from types import SimpleNamespace

import pytest
import torch

from eft_ext import fused_score, fused_score_mix
from eft_ext.ops.backends import native, reference_backend, registry
from python_tests.helpers.rows import models as rows

TARGETS = torch.tensor([0, 7, 31, 59])

WRONG = {
    "targets: expected an int64 tensor, got list": lambda x, t: fused_score(*x, [1, 2]),
    "targets: expected int64 token ids, got torch.float32": lambda x, t: fused_score(*x, t.float()),
    r"targets: expected \[batch\] or \[batch, length\], got shape \[1, 1, 4\]": lambda x, t: fused_score(
        *x, t[None, None]
    ),
    r"targets: expected at least one position, got shape \[0, 3\]": lambda x, t: fused_score(
        *(y[:0, None].expand(0, 3, 60) for y in x), t[:0, None].expand(0, 3)
    ),
    r"tuned: expected \[4, vocab\] as the targets, got shape \[3, 60\]": lambda x, t: fused_score(
        x[0], x[1][:3], x[2], t
    ),
    r"large: expected \[2, 2, vocab\] as the targets, got shape \[4, 60\]": lambda x, t: fused_score(*x, t.view(2, 2)),
    "base: expected bfloat16, float16 or float32, got torch.float64": lambda x, t: fused_score(
        x[0], x[1], x[2].double(), t
    ),
    "scale: expected none beside beta": lambda x, t: fused_score(*x, t, beta=1.0, scale=1.0),
    "conservative_top_p: expected the form of scale": lambda x, t: fused_score(*x, t, beta=1.0, conservative_top_p=0.9),
    r"beta: expected a scalar or a tensor \[4\], got shape \[3\]": lambda x, t: fused_score(*x, t, beta=torch.ones(3)),
    "beta: expected a finite number, got nan": lambda x, t: fused_score(*x, t, beta=math.nan),
    "vocab_size: expected 1 to 60": lambda x, t: fused_score(*x, t, vocab_size=61),
    "num_top: expected an integer from 0": lambda x, t: fused_score(*x, t, num_top=-1),
    "num_changed: expected an integer, got float": lambda x, t: fused_score(*x, t, num_changed=1.0),
    "compared: expected an integer from 0 to 2, got 3": lambda x, t: fused_score_mix(x, [1, 1, 1], t, compared=3),
    "weights: expected 3, one for each model, got 2": lambda x, t: fused_score_mix(x, [1, 1], t),
    r"weights: expected shape \[3\]": lambda x, t: fused_score_mix(x, torch.ones(4, 3), t),
    "logits: expected a sequence of 1 to 4 tensors": lambda x, t: fused_score_mix(x[0], [1], t),
    "logits: expected 1 to 4 tensors, got 5": lambda x, t: fused_score_mix([*x, *x][:5], [1] * 5, t),
    "backend: expected 'auto' or one of": lambda x, t: fused_score(*x, t, backend="gpu"),
    "reward: expected the three models": lambda x, t: fused_score_mix(x[:2], [1, 1], t).reward,
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_input_is_named(message):
    with pytest.raises((ValueError, TypeError), match=message):
        WRONG[message](rows("lm", 3, 4, 60), TARGETS)


@pytest.mark.skipif(registry.backends()["triton"].available, reason="it is usable here")
def test_a_backend_that_is_not_usable_says_so():
    with pytest.raises(RuntimeError, match="backend: 'triton' is not usable here: .*; to enable it: "):
        fused_score(*rows("lm", 3, 4, 60), TARGETS, backend="triton")


def test_cuda_tensors_are_scored_by_the_kernels_that_are_there(monkeypatch):
    mix = SimpleNamespace(device=torch.device("cuda"), vocab_size=native.CUDA_MAX_VOCAB)

    def chosen():
        return registry.choose_backend("auto", mix)

    monkeypatch.setattr(registry, "_cuda_usable", lambda: True)
    monkeypatch.setattr(registry, "_triton_usable", lambda: True)
    monkeypatch.setattr(registry, "_triton_backend", lambda: "triton")
    assert chosen() is native
    mix.vocab_size += 1
    assert chosen() == "triton"
    mix.vocab_size = 1000
    monkeypatch.setattr(registry, "_cuda_usable", lambda: False)
    assert chosen() == "triton"
    monkeypatch.setattr(registry, "_triton_usable", lambda: False)
    registry._warn_slow_cuda.cache_clear()
    with pytest.warns(UserWarning, match="slow reference backend"):
        assert chosen() is reference_backend
