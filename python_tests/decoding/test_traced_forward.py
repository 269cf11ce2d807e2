"""A traced forward pass is the model's own, operator for operator, and is given up where it cannot be."""

import gc
import weakref

import pytest
import torch

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.capture import traced_forward
from eft_ext.decoding.capture.host_reads import HostReads

AFTER = traced_forward.AFTER


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(traced_forward, "AFTER", 0)
    monkeypatch.setattr(traced_forward, "_TRACES", weakref.WeakValueDictionary())  # none of other tests' models


def greedy(feeder, logits, steps):
    got = []
    for _ in range(steps):
        tokens = logits.argmax(-1, keepdim=True)
        logits = feeder.forward(tokens)[:, -1]
        got.append(logits)
    return torch.stack(got)


def test_logits_are_equal_bit_for_bit(family, model_of, ragged, monkeypatch):
    """Over growing lengths, rows that leave, and several tokens at once: one trace serves them."""
    both = []
    for after in (10**9, 0):
        monkeypatch.setattr(traced_forward, "AFTER", after)
        feeder = StaticCacheModel(model_of(family, 7))
        got = [greedy(feeder, feeder.prefill(*ragged), 60)]
        feeder.select_rows([2, 0])
        got += [greedy(feeder, got[0][-1][[2, 0]], 5), feeder.forward(torch.tensor([[5, 6, 7], [8, 9, 10]]))]
        feeder.select_rows([1])
        got += [feeder.forward(torch.tensor([[5, 6, 7, 8, 9]])), feeder.forward(torch.tensor([[5]]))]
        assert feeder.plain_because is None
        both.append(got)
    assert {False, True} == set(traced_forward._STATES[model_of(family, 7)].traces)
    for mine, expected in zip(*both, strict=True):
        assert torch.equal(mine, expected)


@pytest.fixture
def traced(monkeypatch):
    """The number of new tokens of each trace that is made."""
    made = []
    trace = traced_forward.TracedForward._trace
    note = lambda self, inputs: made.append(inputs[0].shape[1]) or trace(self, inputs)  # noqa: E731
    monkeypatch.setattr(traced_forward.TracedForward, "_trace", note)
    return made


def test_a_trace_is_made_after_so_many_passes_of_all_calls(build, ragged, traced, monkeypatch):
    monkeypatch.setattr(traced_forward, "AFTER", 10)
    model = build("llama", 8)
    for passes, made in ((5, []), (5, []), (1, [1]), (30, [1])):
        feeder = StaticCacheModel(model)
        greedy(feeder, feeder.prefill(*ragged), passes)
        assert traced == made
    feeder = StaticCacheModel(model)
    feeder.prefill(*ragged)
    feeder.forward(torch.ones(4, 2, dtype=torch.long))
    assert traced == [1], "it serves several tokens too"
    feeder.select_rows([2])
    greedy(feeder, torch.ones(1, 2), 10)
    assert traced == [1], "one token of one row is counted apart"
    greedy(feeder, torch.ones(1, 2), 1)
    assert traced == [1, 1]


FIXED = {"factor": lambda y: y * int(y.shape[1]), "view": lambda y: y.view(*map(int, y.shape))}


@pytest.mark.parametrize("number", FIXED)
def test_a_number_that_a_trace_fixes_is_noticed(number, build, ragged, traced):
    model = build("llama", 8)
    mlp, own = model.model.layers[0].mlp, model.model.layers[0].mlp.forward
    mlp.forward = lambda x: FIXED[number](own(x))
    feeder = StaticCacheModel(model)
    greedy(feeder, feeder.prefill(*ragged), 3)
    assert feeder.plain_because is None
    lengths, tokens = feeder.lengths.clone(), torch.tensor([[1, 2, 3]] * 4)
    got = feeder.forward(tokens)
    assert "other logits" in feeder.plain_because
    feeder.crop(lengths)
    assert torch.equal(feeder.forward(tokens), got)
    assert traced == [1]


def test_a_short_call_is_not_traced(build, ragged, traced, monkeypatch):
    monkeypatch.setattr(traced_forward, "AFTER", AFTER)
    feeder = StaticCacheModel(build("llama", 8))
    greedy(feeder, feeder.prefill(*ragged), 64)
    assert traced == []


def plain_and_traced(model, ragged, monkeypatch):
    got = []
    for after in (10**9, 0):
        monkeypatch.setattr(traced_forward, "AFTER", after)
        feeder = StaticCacheModel(model)
        got.append(greedy(feeder, feeder.prefill(*ragged), 8))
        assert feeder.plain_because is None
    return got


def test_models_of_one_architecture_share_a_trace(build, ragged, traced, monkeypatch):
    """Each with its own weights, which may change in place or be others."""
    models = [build("qwen2", seed) for seed in (1, 2)]
    for model in (*models, *models):
        expected, got = plain_and_traced(model, ragged, monkeypatch)
        assert torch.equal(got, expected)
        with torch.no_grad():
            model.lm_head.weight.mul_(0.5)
    models[0].load_state_dict(build("qwen2", 3).state_dict(), assign=True)
    expected, got = plain_and_traced(models[0], ragged, monkeypatch)
    assert torch.equal(got, expected)
    assert traced == [1]


def other_configuration(model):
    model.config.final_logit_softcapping = 1.0


def other_number(model):
    model.model.layers[0].self_attn.scaling *= 2


def other_forward(model):
    inner = model.model.layers[0].mlp.forward
    model.model.layers[0].mlp.forward = lambda x: 2 * inner(x)


def other_type(model):
    model.double()


def other_tensor(model):
    model.model.embed_tokens.embed_scale = 2 * model.model.embed_tokens._buffers.pop("embed_scale")


OTHERS = [other_configuration, other_number, other_forward, other_type, other_tensor]


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: change.__name__)
def test_models_that_compute_otherwise_share_none(change, build, ragged, traced, monkeypatch):
    models = [build("gemma2", seed) for seed in (1, 2)]
    change(models[1])
    for model in models:
        expected, got = plain_and_traced(model, ragged, monkeypatch)
        assert torch.equal(got, expected)
    assert traced == [1, 1]


def test_one_model_that_is_given_up_leaves_the_others_their_trace(build, ragged, traced):
    models = [build("gemma2", seed) for seed in (1, 2)]
    for _ in range(2):
        feeders = [StaticCacheModel(model) for model in models]
        for feeder in feeders:
            greedy(feeder, feeder.prefill(*ragged), 3)
        models[0].config.final_logit_softcapping = 1.0
    assert [feeder.plain_because is None for feeder in feeders] == [False, True]
    assert traced_forward._STATES[models[1]].traces
    assert traced == [1]


@pytest.mark.filterwarnings("ignore")
def test_int8_models_are_traced(build, ragged, monkeypatch):
    """Their weights are no tensors, so that a trace is one model's."""
    for seed in (1, 2):
        model = torch.ao.quantization.quantize_dynamic(build("llama", seed), {torch.nn.Linear})
        expected, got = plain_and_traced(model, ragged, monkeypatch)
        assert torch.equal(got, expected)
        assert traced_forward._STATES[model].traces


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
    traces = weakref.ref(traced_forward._STATES[model].traces)
    assert traces()
    del model, feeder
    gc.collect()
    assert [ref() for ref in (*alive, traces)] == [None, None, None]
