"""Methods as JSON: there and back, whatever order JSON gives its keys."""

import json

import pytest

from eft_ext.methods import (
    Amplify,
    Conservative,
    Contrast,
    DownScale,
    Guidance,
    Interpolate,
    Plain,
    Realign,
    UpScale,
    Weighted,
)
from eft_ext.methods.serialized import from_dict, to_dict

METHODS = [
    UpScale(0.25),
    DownScale(2.0),
    Amplify(1.5),
    Conservative(0.5, "base", "drop", method=Amplify(1.25)),
    Conservative(0.75, "small", method=DownScale()),
    Contrast(0.125, 0.0),
    Realign(-1.0),
    Guidance(3.0),
    Plain(),
    Interpolate({"z": 0.25, "a": 0.5}),
    Weighted({"z": 1.0, "a": -1.0, "m": 0.5}),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_there_and_back(method):
    again = from_dict(json.loads(json.dumps(to_dict(method), sort_keys=True)))
    assert type(again) is type(method)
    assert again.models == method.models
    assert again.parameters == method.parameters
    assert again.weights() == method.weights()
    assert again.conservative() == method.conservative()
    assert again.ending == method.ending


class Own(UpScale):
    pass


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, 'expected {"name": ..., parameters}, got None'),
        ({"beta": 1.0}, 'expected {"name"'),
        ({"name": "Upscale"}, "expected one of Amplify, Conservative, .*, got 'Upscale'"),
        ({"name": "UpScale", "scale": 1.0}, "UpScale: .*scale"),
        ({"name": "UpScale", "beta": "much"}, "UpScale: beta: expected"),
        ({"name": "Interpolate"}, "Interpolate: 'models'"),
        ({"name": "Weighted", "models": ["a"], "weights": [1.0, 2.0]}, "Weighted: "),
        ({"name": "Conservative", "top_p": 0.5, "method": {"name": "UpScale", "beta": 2.0}}, "Conservative: method: "),
    ],
    ids=str,
)
def test_what_is_no_method(given, said):
    with pytest.raises(ValueError, match=f"^method:? {said}|^method: {said}"):
        from_dict(given)


def test_what_json_cannot_hold():
    for method, said in {
        UpScale([1.0, 2.0]): "beta: expected a number in a checkpoint, got one for each row",
        Guidance(lambda step: 1.0): "scale: expected a number in a checkpoint, got a function of the step",
        Own(): "method: expected one of eft_ext.methods in a checkpoint, got Own",
    }.items():
        with pytest.raises(ValueError, match=f"^{said}"):
            to_dict(method)
