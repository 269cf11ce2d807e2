"""Records as JSON, and what is said of data that is none."""

import json
import re

import pytest

from eft_ext.analysis import Record
from python_tests.analysis.pages import nasty


def test_records_as_json():
    record = nasty()
    text = json.dumps(record.to_dict(), allow_nan=False)
    assert Record.from_dict(json.loads(text)).to_dict() == record.to_dict()


WRONG = {
    "record: expected an object, got list": [],
    "record: unknown key 'token'": {"token": []},
    "record: missing 1 required positional argument: 'tokens'": {},
    "record.tokens: expected a list, got str": {"tokens": "x"},
    "record.tokens[0].text: expected str, got int": {"tokens": [{"id": 1, "text": 2, "logprobs": []}]},
    "record.tokens[0].logprobs: expected 4, one for each name, got 1": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [0.0]}]
    },
    "record.tokens[0].speculation: expected one of": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [0.0] * 4, "speculation": "maybe"}]
    },
    "record.tokens[1].logprobs: expected at most 0, got [800.0, None]": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [-1, None]}, {"id": 1, "text": "x", "logprobs": [800, None]}],
        "names": ["a", "b"],
    },
    "record.tokens[0].candidates[0].logprobs: expected at most 0, got [1.0]": {
        "tokens": [
            {"id": 1, "text": "x", "logprobs": [0], "candidates": [{"id": 2, "text": "y", "logprobs": [1]}]},
        ],
        "names": ["a"],
    },
    "record.tokens[0].tv: expected at most 1, got 3.0": {"tokens": [{"id": 1, "text": "x", "logprobs": [], "tv": 3}]},
    "record.tokens[0].entropy[1]: expected a finite number, got str": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [], "entropy": [None, "2"]}]
    },
    "record.tokens[0].kl: expected a finite number, got inf": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [], "kl": 1e999}]
    },
    "record.tokens[0].rank[0]: expected int, got bool": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [], "rank": [True]}]
    },
    "record.tokens[0].attribution.a: expected a finite number, got str": {
        "tokens": [{"id": 1, "text": "x", "logprobs": [], "attribution": {"a": "1"}}]
    },
    "record.options: expected an object, got list": {"tokens": [], "options": [1]},
    "record.names[1]: expected str, got int": {"tokens": [], "names": ["a", 1]},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_records_are_named(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Record.from_dict(WRONG[message])
