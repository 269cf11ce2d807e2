"""A recorded forward pass is the model's own, operator for operator, and is given up where it cannot be."""

import gc
import weakref

import pytest
import torch

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.capture import traced_forward
from eft_ext.decoding.capture.host_reads import HostReads


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(traced_forward, "AFTER", 0)


def greedy(feeder, logits, steps):
    got = []
    for _ in range(steps):
        tokens = logits.argmax(-1, keepdim=True)
        logits = feeder.forward(tokens)[:, -1]
        got.append(logits)
    return torch.stack(got)


def test_logits_are_equal_bit_for_bit(family, model_of, ragged, monkeypatch):
    """Over growing lengths, rows that leave, and several tokens at once."""
    both = []
    for after in (10**9, 0):
        monkeypatch.setattr(traced_forward, "AFTER", after)
        feeder = StaticCacheModel(model_of(family, 7))
        got = [greedy(feeder, feeder.prefill(*ragged), 60)]
        feeder.select_rows([2, 0])
        got += [greedy(feeder, got[0][-1][[2, 0]], 5), feeder.forward(torch.tensor([[5, 6, 7], [8, 9, 10]]))]
        assert feeder.plain_because is None
        both.append(got)
    assert {1, 3} == set(traced_forward._RECORDINGS[model_of(family, 7)].traces)
    for mine, expected in zip(*both, strict=True):
        assert torch.equal(mine, expected)


def test_changed_weights_are_seen(build, ragged):
    model = build("llama", 3)
    feeder = StaticCacheModel(model)
    before = greedy(feeder, feeder.prefill(*ragged), 3)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    again = StaticCacheModel(model)
    after = greedy(again, again.prefill(*ragged), 3)
    assert not torch.equal(before, after)
    fresh = StaticCacheModel(build("llama", 3).double().half().float())  # other storage
    assert torch.allclose(greedy(fresh, fresh.prefill(*ragged), 1), before[:1], atol=0.1)
    model.double()
    moved = StaticCacheModel(model)
    assert greedy(moved, moved.prefill(*ragged), 3).dtype == torch.float64


def test_a_model_that_was_changed_otherwise_is_noticed(build, ragged):
    model = build("gemma2", 3)
    feeder = StaticCacheModel(model)
    greedy(feeder, feeder.prefill(*ragged), 3)
    model.config.final_logit_softcapping = 1.0
    feeder = StaticCacheModel(model)
    assert greedy(feeder, feeder.prefill(*ragged), 3).abs().max() <= 1.0
    assert "other logits" in feeder.plain_because


def test_values_read_on_the_host_are_found(build, ragged):
    model = build("llama", 4)
    inner = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda x: inner(x) if x.sum() > 0 else -inner(x)
    feeder = StaticCacheModel(model)
    greedy(feeder, feeder.prefill(*ragged), 3)
    assert "reads values on the host" in feeder.plain_because
    x = torch.arange(3)
    for read in (x.tolist, x.numpy, x.sum().item, x.nonzero, lambda: bool(x[0]), lambda: x[x > 1], x.cpu):
        with HostReads() as reads:
            read()
        assert reads.found, read
        with pytest.raises(RuntimeError, match="reads a value on the host"), HostReads(forbid=True):
            read()
    with HostReads() as reads:
        (x + 1).float().softmax(-1)[x].repeat_interleave(2)
    assert not reads.found


def test_hooks_keep_their_calls(build, ragged):
    model, calls = build("llama", 5), []
    hook = model.register_forward_hook(lambda *args: calls.append(1))
    feeder = StaticCacheModel(model)
    greedy(feeder, feeder.prefill(*ragged), 4)
    hook.remove()
    assert len(calls) == 5
    assert "hooks" in feeder.plain_because


def test_a_model_is_not_kept_alive(build, ragged):
    model = build("llama", 6)
    feeder = StaticCacheModel(model)
    greedy(feeder, feeder.prefill(*ragged), 3)
    alive = weakref.ref(model), weakref.ref(model.lm_head.weight)
    del model, feeder
    gc.collect()
    assert [ref() for ref in alive] == [None, None]
