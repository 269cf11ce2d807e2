"""Models, parameters and prompts that a method does not have."""

import re

import pytest

from eft_ext import methods as m
from eft_ext.hf import EmulatedModel

WRONG_MODELS = {
    "base: expected a model, got None": dict(large=0, tuned={"a": 1, "b": 3}),
    "b: expected a model, got None": dict(large=0, tuned={"a": 1, "b": None}, base=2),
    "behaviours: expected 1 to 2 of them, got 0": dict(large=0, tuned={}, base=2),
    "c: not a model of Interpolate(a=1)": dict(large=0, tuned={"c": 1}, base=2, method=m.Interpolate({"a": 1})),
    "amateur: expected a model, got None": dict(expert=0, method=m.Contrast()),
    "expert: not a model of UpScale(beta=1), which has large, tuned": dict(expert=0, amateur=1),
    "large: not a model of Realign(share=1)": dict(large=0, tuned=1, base=2, method=m.Realign()),
    "beta: expected nothing beside method=UpScale": dict(large=0, tuned=1, base=2, method=m.UpScale(), beta=1),
    "beta: belongs to large, tuned and base, and this model's method is Interpolate(a=1)": dict(
        large=0, tuned={"a": 1}, base=2, beta=0.5
    ),
}


@pytest.mark.parametrize("message", WRONG_MODELS)
def test_models_that_do_not_fit(models, message):
    """Whole numbers but for beta's are places among the models."""

    def placed(name, value):
        if isinstance(value, dict):
            return {key: placed(key, one) for key, one in value.items()}
        return models[value] if isinstance(value, int) and name != "beta" else value

    with pytest.raises((ValueError, TypeError), match="^" + re.escape(message)):
        EmulatedModel(**{name: placed(name, value) for name, value in WRONG_MODELS[message].items()})


def test_calls_that_do_not_fit(models):
    large, a, base, b = models
    model = EmulatedModel(large, {"a": a, "b": b}, base)
    for options, message in (
        (dict(method="up"), "method: expected one of eft_ext.methods, got 'up'"),
        (dict(beta=0.5), "beta: belongs to large, tuned and base"),
        (dict(method=m.UpScale()), "method: expected one of large, a, b, base, the models that are here, got UpScale"),
        (dict(prompts={"c": [[1]]}), "prompts: expected the keys large, a, b, base, tuned, got 'c'"),
        (dict(method=m.Interpolate({"a": [1.0, 2.0], "b": 0.0})), "a: expected a number or 1 values, one per row"),
        (dict(method=m.Interpolate({"a": lambda step: "x", "b": 0.0})), "a of step 0: expected a finite number"),
    ):
        with pytest.raises((ValueError, TypeError), match="^" + re.escape(message)):
            model.generate([[5, 6]], max_new_tokens=2, **options)
    with pytest.raises(ValueError, match=r"^conditional: not a model of Plain"):
        EmulatedModel(conditional=large, model=large, method=m.Plain())
    with pytest.raises(ValueError, match=r"^expert: expected a hub id or a folder, got None"):
        EmulatedModel.from_pretrained(amateur="x", method=m.Contrast())
    with pytest.raises(ValueError, match=r"^tuned: not a model of Contrast"):
        EmulatedModel.from_pretrained(tuned="x", expert="y", amateur="x", method=m.Contrast())
