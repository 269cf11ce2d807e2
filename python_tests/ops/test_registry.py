"""Looking for a backend: once where it is found, and no other than the one that is named."""

import pytest
import torch

from eft_ext.ops import fused_step
from eft_ext.ops.backends import registry
from eft_ext.ops.backends.registry import Backend
from python_tests.helpers.rows import models


@pytest.fixture
def probes(monkeypatch):
    """The names that were looked for, and what each look finds."""
    looked, answers = [], {}

    def probe(name):
        looked.append(name)
        return answers[name].pop(0) if answers.get(name) else Backend(name, False, reason="not now", remedy="wait")

    monkeypatch.setattr(registry, "_usable", {})
    monkeypatch.setattr(registry, "_PROBES", {name: lambda name=name: probe(name) for name in registry.NAMES})
    return looked, answers


def test_a_named_backend_is_looked_for_once(probes):
    looked, answers = probes
    answers["cpu"] = [Backend("cpu", True, device="cpu")]
    logits = models("lm", 3, 2, 300)
    for step in range(3):
        fused_step(*logits, seed=torch.arange(2), position=step, backend="cpu")
    assert looked == ["cpu"]
    fused_step(*logits, seed=torch.arange(2), position=0, backend="reference")
    assert looked == ["cpu"]


def test_one_that_was_missing_is_looked_for_again(probes):
    """The failure may have been transient."""
    looked, answers = probes
    logits = models("lm", 3, 2, 300)
    with pytest.raises(RuntimeError, match="backend: 'cpu' is not usable here: not now; to enable it: wait"):
        fused_step(*logits, seed=torch.arange(2), position=0, backend="cpu")
    answers["cpu"] = [Backend("cpu", True, device="cpu")]
    fused_step(*logits, seed=torch.arange(2), position=0, backend="cpu")
    assert looked == ["cpu", "cpu"]
