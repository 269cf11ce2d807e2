"""Named methods in the driver: each token for token against a plain loop, with weights that change and differ."""

import numpy as np
import pytest
import torch

from eft_ext import methods as m
from eft_ext.decoding.mixture import Mixture
from eft_ext.hf import EFTLogitsProcessor, EmulatedModel, custom_generate
from eft_ext.hf.inputs.choose_method import choose_method
from python_tests.helpers.mixtures import conservative, contrast
from python_tests.helpers.naive import NEW, RAGGED, VOCAB, naive, named, padded
from python_tests.helpers.slow_params import slowly_but

# method, places of its models among the four, its mixture
METHODS = {
    "up-scale": (m.UpScale(0.6), (0, 1, 2), lambda step, x: x[0] + 0.6 * (x[1] - x[2])),
    "down-scale": (m.DownScale(0.6), (1, 0, 2), lambda step, x: x[0] + 0.6 * (x[1] - x[2])),
    "amplify": (m.Amplify(1.4), (0, 1, 2), lambda step, x: x[1] + 1.4 * (x[0] - x[2])),
    "interpolate": (
        m.Interpolate.between("a", "b", 0.3),
        (0, 1, 3, 2),
        lambda step, x: x[0] + 0.3 * x[1] + 0.7 * x[2] - x[3],
    ),
    "changing": (
        m.Interpolate.between("a", "b", lambda step: step / 4),
        (0, 1, 3, 2),
        lambda step, x: x[0] + step / 4 * x[1] + (1 - step / 4) * x[2] - x[3],
    ),
    "conservative": (m.Conservative(0.7, method=m.Amplify(1.3)), (0, 1, 2), lambda _, x: conservative(x, 1.3, 0.7)),
    "conservative, changing": (
        m.Conservative(lambda step: 0.7 - step / 40, method=m.Amplify(lambda step: 1.3 + step / 10)),
        (0, 1, 2),
        lambda step, x: conservative(x, 1.3 + step / 10, 0.7 - step / 40),
    ),
    "contrast": (m.Contrast(0.5, 0.1), (0, 1), lambda step, x: contrast(x, 0.5, 0.1)),
    "realign": (m.Realign(1.5), (1, 2), lambda step, x: 1.5 * x[1] - 0.5 * x[0]),
    "plain": (m.Plain(), (0,), lambda step, x: x[0]),
    "weighted": (m.Weighted({"x": 1.0, "y": -0.4}), (0, 2), lambda step, x: x[0] - 0.4 * x[1]),
}


FAST = ("contrast", "conservative", "conservative, changing")


@pytest.mark.parametrize("name", slowly_but(FAST, METHODS))
def test_every_entry_gives_the_naive_loop(models, name):
    method, places, z_of = METHODS[name]
    chosen = named(method, places, models)
    expected = [naive(chosen.values(), z_of, [row] * len(places)) for row in RAGGED]
    ids, mask = padded(RAGGED)
    options = dict(attention_mask=mask, max_new_tokens=NEW, eos_token_id=[999])
    got = EmulatedModel(method=method, **chosen).generate(ids, **options)
    assert got[:, 7:].tolist() == expected
    lead, *others = chosen.items()
    stock = custom_generate(method=method, **dict(others))
    assert torch.equal(lead[1].generate(ids, custom_generate=stock, **options), got)
    processor = EFTLogitsProcessor(method=method, attention_mask=mask, **dict(others))
    columns = list(range(VOCAB, 272)) if lead[1] is models[0] else None  # random in its padded columns too
    theirs = lead[1].generate(ids, logits_processor=[processor], suppress_tokens=columns, **options)
    assert torch.equal(theirs, got)


def test_several_tuned_models(models):
    large, a, base, b = models
    ids = [[5, 6, 7]]
    model = EmulatedModel(large, {"a": a, "b": b}, base)
    assert repr(model.method) == "Interpolate(a=0.5, b=0.5)"
    assert list(model.models) == ["large", "a", "b", "base"]
    assert model.models["b"] is b
    for share, one in ((1.0, a), (0.0, b)):
        got = model.generate(ids, max_new_tokens=NEW, method=m.Interpolate.between("a", "b", share))
        assert torch.equal(got, EmulatedModel(large, one, base).generate(ids, max_new_tokens=NEW))
    stock = custom_generate({"a": a, "b": b}, base)
    again = large.generate(torch.tensor(ids), custom_generate=stock, max_new_tokens=NEW)
    assert torch.equal(again, model.generate(ids, max_new_tokens=NEW))
    turned = m.Interpolate({"b": 0.2, "a": 0.8})
    with pytest.raises(ValueError, match=r"^method: expected one of large, a, b, base, .* of large, b, a, base"):
        model.generate(ids, method=turned)


@pytest.mark.slow
def test_weights_per_row_and_per_prompt(models):
    large, a, base, b = models
    ids, mask = padded(RAGGED)
    shares = [0.0, 0.3, 0.6, 1.0]
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    model = EmulatedModel(large, {"a": a, "b": b}, base)
    for given in (shares, torch.tensor(shares), np.array(shares), lambda step: shares):
        method = m.Interpolate.between("a", "b", given)
        together = model.generate(ids, attention_mask=mask, method=method, **options)
        for row, share in enumerate(shares):
            alone = model.generate([RAGGED[row]], method=m.Interpolate.between("a", "b", share), **options)
            assert torch.equal(together[row, 7:], alone[0, len(RAGGED[row]) :])
    drawn = dict(do_sample=True, **options)
    four = m.Interpolate.between("a", "b", shares)
    twice = model.generate(ids, attention_mask=mask, method=four, num_return_sequences=2, seed=[*range(8)], **drawn)
    one = model.generate([RAGGED[1]], method=m.Interpolate.between("a", "b", 0.3), seed=[3], **drawn)
    assert torch.equal(twice[3, 7:], one[0, 7:])


def test_rows_that_end_take_their_weights_with_them(models):
    """Both for weights that stay and for functions of the step."""
    large, a, base, b = models
    ids, mask = padded(RAGGED)
    shares = torch.tensor([0.0, 0.3, 0.6, 1.0])
    model = EmulatedModel(large, {"a": a, "b": b}, base)
    for given in (shares, lambda step: shares.flip(0) if step % 2 else shares):
        options = dict(attention_mask=mask, max_new_tokens=NEW, method=m.Interpolate.between("a", "b", given))
        free = model.generate(ids, eos_token_id=[999], **options)
        ends = int(free[0, 8])
        cut = model.generate(ids, eos_token_id=ends, pad_token_id=0, **options)
        for row in range(4):
            new = free[row, 7:].tolist()
            n = new.index(ends) + 1 if ends in new else NEW
            assert cut[row, 7 : 7 + n].tolist() == new[:n]


@pytest.mark.slow
def test_limits(models):
    large, a, base, b = models
    ids, mask = padded(RAGGED)
    options = dict(attention_mask=mask, max_new_tokens=NEW, eos_token_id=[999])
    trio = EmulatedModel(large, a, base)
    one = trio.generate(ids, **options)
    assert (trio.large, trio.tuned, trio.base) == (large, a, base)
    for same in (m.UpScale(1.0), m.Amplify(1.0), m.Conservative(1.0)):
        assert torch.equal(trio.generate(ids, method=same, **options), one)
    up = trio.generate(ids, scale=1.3, **options)
    assert torch.equal(trio.generate(ids, method=m.Conservative(1.0, method=m.Amplify(1.3)), **options), up)
    assert not torch.equal(up, one)
    alone = {x: x.generate(ids, **options) for x in (a, b)}
    assert torch.equal(trio.generate(ids, method=m.Amplify(0.0), **options), alone[a])
    for method, expected in (
        (m.Realign(0.0), a),
        (m.Realign(1.0), b),
        (m.Contrast(0.0, 0.3), a),
        (m.Weighted({"x": 0.0, "y": 1.0}), b),
    ):
        model = EmulatedModel(method=method, **named(method, (1, 3), models))
        assert torch.equal(model.generate(ids, **options), alone[expected])
    guided = EmulatedModel(model=a, method=m.Guidance(1.0))
    with pytest.raises(AttributeError, match=r"^large: not a model of Guidance\(scale=1\), which has conditional, un"):
        _ = guided.large
    assert torch.equal(guided.generate(ids, **options), alone[a])


class At:
    """A streamer that changes a method after so many tokens."""

    def __init__(self, method, when, **values):
        self.method, self.when, self.values, self.seen = method, when, values, -1

    def put(self, tokens):
        self.seen += 1  # the prompt first
        if self.seen == self.when:
            self.method.set(**self.values)

    def end(self):
        pass


def test_a_method_is_changed_while_it_generates(models):
    large, a, base, b = models
    method = m.Interpolate({"a": 1.0, "b": 0.0})
    model = EmulatedModel(large, {"a": a, "b": b}, base, method=method)
    got = model.generate([[5, 6, 7]], max_new_tokens=NEW, eos_token_id=[999], streamer=At(method, 4, a=0.1, b=1.3))

    def z_of(step, x):
        return x[0] + x[1] - x[3] if step < 4 else x[0] + 0.1 * x[1] + 1.3 * x[2] - 1.4 * x[3]

    assert got[0, 3:].tolist() == naive([large, a, b, base], z_of, [[5, 6, 7]] * 4)
    assert method.a == pytest.approx(0.1)


def test_prompts_by_group(models):
    large, a, base, b = models
    model = EmulatedModel(large, {"a": a, "b": b}, base)
    each = {"a": [[3, 5]], "b": [[3, 5]], "base": [[9]]}
    options = dict(max_new_tokens=NEW)
    expected = model.generate([[5, 6]], prompts=each, **options)
    assert torch.equal(model.generate([[5, 6]], prompts={"tuned": [[3, 5]], "base": [[9]]}, **options), expected)
    mixed = model.generate([[5, 6]], prompts={"tuned": {"a": [[3, 5]], "b": [[4]]}}, **options)
    assert torch.equal(mixed, model.generate([[5, 6]], prompts={"a": [[3, 5]], "b": [[4]]}, **options))
    own = model.generate([[5, 6]], prompts={"tuned": [[3, 5]], "b": [[4]]}, **options)
    assert torch.equal(own, mixed)


def test_what_the_mixture_says_to_who_launches_a_step_itself():
    steps = torch.zeros(4, dtype=torch.int64)
    mixture = Mixture(choose_method(m.UpScale(), scale=[1.0, 2.0], conservative_top_p=0.9), 4, copies=2)
    mixture.admit([0, 1, 2, 3], [0, 1, 2, 3])
    now = mixture.at(steps)
    assert [w.tolist() if isinstance(w, torch.Tensor) else w for w in now.weights()] == [
        [1.0, 1.0, 2.0, 2.0],
        1.0,
        [-1.0, -1.0, -2.0, -2.0],
    ]
    assert now.conservative().top_p == pytest.approx(0.9)
    assert now.conservative().set == "tuned"
    mixture.move([2], [0])  # rows 1 and 2 are left
    assert mixture.at(steps[:2]).weights()[0].tolist() == [2.0, 1.0]
    assert not mixture.sync(7), "nothing changed"
    mixture.method.set(scale=[3.0, 4.0])
    assert mixture.sync(7)
    assert mixture.at(steps[:2]).weights()[0].tolist() == [4.0, 3.0]
    assert Mixture(m.UpScale(), 1).at(steps[:1]).weights() == (1.0, 1.0, -1.0)
    assert Mixture(m.UpScale(), 1).at(steps[:1]).conservative() is None
