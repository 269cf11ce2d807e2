"""Parameters: what they may be, how they change, and what is said of those that do not fit."""

import re

import numpy as np
import pytest
import torch

import eft_ext
from eft_ext import methods as m
from eft_ext.ops.backends import call_cache


def rows(k, batch=3, size=40, seed=0):
    make = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, size, generator=make) for _ in range(k)]


def test_kinds_of_values():
    for one in (2, 2.0, np.float32(2), torch.tensor(2.0), np.int64(2)):
        assert float(m.UpScale(one).beta) == 2.0
    for each in ([1, 2], (1.0, 2.0), np.array([1.0, 2.0]), torch.tensor([1, 2])):
        assert m.Amplify(each).scale.tolist() == [1.0, 2.0]


def test_set():
    method = m.Interpolate.between("polite", "terse", 0.25)
    assert method.models == ("large", "polite", "terse", "base")
    before = method.parameters
    method.set(polite=1.0, terse=0.5)
    assert method.weights() == (1.0, 1.0, 0.5, -1.5)
    assert before == {"polite": 0.25, "terse": 0.75}, "who holds the old ones keeps them whole"
    with pytest.raises(ValueError, match=r"^beta: not a parameter of Interpolate, which has polite, terse"):
        method.set(beta=1.0)
    with pytest.raises(ValueError, match=r"^terse: expected a finite number or one per row, got nan"):
        method.set(polite=0.0, terse=float("nan"))
    assert method.parameters == {"polite": 1.0, "terse": 0.5}, "all or nothing"
    with pytest.raises(ValueError, match=r"^none: not a parameter of Plain, which has none"):
        m.Plain().set(none=1)


def test_functions_of_the_step():
    logits = rows(3)
    method = m.UpScale(lambda step: 1.0 + step)
    assert method.is_scheduled
    for position in (0, 3):
        expected = eft_ext.combine(logits, m.UpScale(1.0 + position))
        assert torch.equal(eft_ext.combine(logits, method, position=position), expected)
        draw = {"seed": 4, "position": position}
        expected = eft_ext.fused_mix(logits, m.UpScale(1.0 + position), **draw)
        assert torch.equal(eft_ext.fused_mix(logits, method, **draw), expected)
    with pytest.raises(ValueError, match=r"^position: expected an integer, since beta is a function of it"):
        eft_ext.fused_mix(logits, method, temperature=0.0)
    with pytest.raises(ValueError, match=r"^position: expected an integer, since beta is a function of it"):
        method.weights()
    each = m.UpScale(lambda step: [0.0, step, 1.0])
    assert torch.equal(
        eft_ext.combine(logits, each, position=2), eft_ext.combine(logits, m.UpScale(torch.tensor([0.0, 2, 1])))
    )
    share = m.Interpolate.between("a", "b", lambda step: step / 4)
    assert share.at(1).weights() == (1.0, 0.25, 0.75, -1.0)
    with pytest.raises(TypeError, match=r"^beta of step 2: expected a finite number or one per row, got 'x'"):
        m.UpScale(lambda step: "x").at(2)
    with pytest.raises(ValueError, match=r"^top_p of step 0: expected a finite number in \[0, 1\]"):
        m.Conservative(lambda step: 3).at(0)


def test_repr():
    assert repr(m.Interpolate({"polite": 0.3, "terse": [0.7, 1]})) == "Interpolate(polite=0.3, terse=tensor [2])"
    assert repr(m.Contrast()) == "Contrast(beta=0.5, plausibility=0.1)"
    assert repr(m.Conservative(0.9, outside="drop")) == "Conservative(top_p=0.9, scale=1, set='tuned', outside='drop')"
    assert "beta=<lambda>" in repr(m.UpScale(lambda step: 1.0))


def test_models_weights_and_ends():
    for method, models, ends in (
        (m.UpScale(), "large tuned base", "large tuned"),
        (m.DownScale(), "small tuned base", "small tuned"),
        (m.Amplify(), "large tuned base", "large tuned"),
        (m.Interpolate({"a": 1, "b": 1}), "large a b base", "large a b"),
        (m.Conservative(0.9), "large tuned base", "large tuned"),
        (m.Conservative(0.9, set="small", method=m.DownScale()), "small tuned base", "small tuned"),
        (m.Contrast(), "expert amateur", "expert"),
        (m.Realign(), "reference aligned", "reference aligned"),
        (m.Guidance(), "conditional unconditional", "conditional"),
        (m.Plain(), "model", "model"),
        (m.Weighted({"x": 1, "y": -1}), "x y", "x"),
        (m.Weighted({"x": -1}), "x", "x"),
    ):
        assert (" ".join(method.models), " ".join(method.ending)) == (models, ends)
        assert len(method.weights()) == len(method.models)
        assert method.formula


WRONG = [
    (lambda: m.UpScale("a"), TypeError, "beta: expected a finite number or one per row, got 'a'"),
    (lambda: m.UpScale(None), TypeError, "beta: expected a finite number or one per row, got None"),
    (lambda: m.UpScale(True), TypeError, "beta: expected a finite number"),
    (lambda: m.UpScale(float), TypeError, "beta: expected a finite number"),
    (lambda: m.UpScale([[1.0]]), ValueError, "beta: expected a finite number or one per row, got shape [1, 1]"),
    (lambda: m.Amplify(float("inf")), ValueError, "scale: expected a finite number or one per row, got inf"),
    (lambda: m.Amplify(1e39), ValueError, "scale: expected a finite number in float32 or one per row, got 1e+39"),
    (lambda: m.Amplify([1.0, float("nan")]), ValueError, "scale: expected a finite number or one per row, got [1.0"),
    (lambda: m.Interpolate([1.0]), TypeError, "behaviours: expected a mapping of names to weights, got list"),
    (lambda: m.Interpolate({}), ValueError, "behaviours: expected 1 to 2 of them, got 0"),
    (lambda: m.Interpolate(dict.fromkeys("abc", 1)), ValueError, "behaviours: expected 1 to 2 of them, got 3"),
    (lambda: m.Interpolate({"base": 1}), ValueError, "expected names other than large, tuned and base, got 'base'"),
    (lambda: m.Interpolate({"a": "x"}), TypeError, "a: expected a finite number"),
    (lambda: m.Interpolate.between("a", "b", "x"), TypeError, "share: expected a finite number"),
    (lambda: m.Conservative(1.5), ValueError, "top_p: expected a finite number in [0, 1] or one per row, got 1.5"),
    (lambda: m.Conservative([0.5, -1]), ValueError, "top_p: expected a finite number in [0, 1] or one per row"),
    (lambda: m.Conservative(0.9, set="small"), ValueError, "set: expected one of large, tuned, base, got 'small'"),
    (lambda: m.Conservative(0.9, outside="no"), ValueError, "outside: expected 'keep' or 'drop', got 'no'"),
    (lambda: m.Conservative(0.9, method=m.UpScale(0.5)), ValueError, "DownScale(1) have, got UpScale(beta=0.5)"),
    (lambda: m.Conservative(0.9, method=m.UpScale([1.0])), ValueError, "method: expected the form tuned + scale"),
    (lambda: m.Conservative(0.9, method=m.Realign()), ValueError, "got Realign(share=1)"),
    (lambda: m.Contrast(plausibility=2), ValueError, "plausibility: expected a finite number in [0, 1]"),
    (lambda: m.Weighted({}), ValueError, "models: expected 1 to 4 names, got []"),
    (lambda: m.Weighted(dict.fromkeys("abcde", 1)), ValueError, "models: expected 1 to 4 names, got ['a',"),
    (lambda: m.Weighted([1]), TypeError, "models: expected a mapping of names to weights, got list"),
    (
        lambda: eft_ext.fused_mix(rows(3), m.Interpolate({"a": 1, "b": 1})),
        ValueError,
        "logits: expected 4 tensors for Interpolate(a=1, b=1) (large, a, b, base), got 3",
    ),
    (lambda: eft_ext.combine(rows(3), m.Contrast()), ValueError, "logits: expected 2 tensors for Contrast(beta=0.5"),
    (lambda: eft_ext.combine(rows(3), m.UpScale([1.0, 2.0])), ValueError, "weights[1]: expected a scalar or a tensor"),
    (lambda: eft_ext.combine(rows(2), m.Contrast(plausibility=[0.1])), ValueError, "plausibility: expected a scalar"),
    (
        lambda: eft_ext.combine(rows(3), m.Amplify(), conservative_top_p=0.5),
        ValueError,
        "conservative_top_p: expected none beside Amplify(scale=1)",
    ),
    (lambda: m.UpScale().alpha, AttributeError, "UpScale has no attribute 'alpha'"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "kind", "message"), WRONG, ids=[message[:40] for _, _, message in WRONG])
def test_what_does_not_fit_is_named(act, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        act()


def test_repeated_calls_of_a_loop():
    """The short way for calls that differ in addresses, seed and position only gives the same tokens."""
    call_cache._calls.clear()
    method = m.Interpolate({"a": 0.3, "b": 0.7})
    given = [1.0, 0.3, 0.7, -1.0]
    for position in range(4):
        logits = rows(4, seed=position)
        options = {"temperature": 0.8, "top_p": 0.9, "seed": 3, "position": position}
        expected = eft_ext.fused_mix(logits, given, backend="reference", **options)
        for weights in (method, given, torch.tensor(given)):
            assert torch.equal(eft_ext.fused_mix(logits, weights, **options), expected)
    assert len(call_cache._calls) == 2, "0.3 as it is and rounded to fp32"
    method.set(a=2.0)
    changed = eft_ext.fused_mix(logits, [1.0, 2.0, 0.7, -2.7], backend="reference", **options)
    assert torch.equal(eft_ext.fused_mix(logits, method, **options), changed)
    call_cache._calls.clear()
    for unlike in (m.Conservative(0.5), m.Contrast(), m.UpScale([1.0, 2.0, 3.0]), m.Plain()):
        logits = rows(len(unlike.models))
        for _ in range(2):
            tokens = eft_ext.fused_mix(logits, unlike, **options)
            assert torch.equal(tokens, eft_ext.fused_mix(logits, unlike, backend="reference", **options))
    assert len(call_cache._calls) == 1, "of the plain one"
    with pytest.raises(ValueError, match=r"^logits: expected 1 to 4 tensors, got 0"):
        eft_ext.fused_mix([], [], seed=1, position=0, out=torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^weights: expected 2, one for each model, got 3"):
        eft_ext.fused_mix(rows(2), [1.0, 2.0, 3.0], seed=1, position=0)


def test_copies_are_whole():
    import copy
    import pickle

    method = m.Interpolate({"a": 0.3, "b": [0.1, 0.2]})
    for other in (copy.copy(method), copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        other.set(a=1.0)
        assert (other.a, method.a) == (1.0, pytest.approx(0.3))
        assert other.models == method.models


@pytest.mark.slow
def test_under_compile():
    """One graph, with numbers, a value for each row, and the constraint of contrastive decoding."""
    for method, count in (
        (m.Interpolate({"a": 0.3, "b": 0.7}), 4),
        (m.UpScale(torch.tensor([0.0, 1.0, 2.0])), 3),
        (m.Contrast(), 2),
    ):

        def step(*logits, method=method):
            return eft_ext.fused_mix(logits, method, temperature=0.8, seed=3, position=1)

        logits = rows(count)
        assert torch.equal(torch.compile(step, fullgraph=True, backend="eager")(*logits), step(*logits))
