"""Requests as rows, for which lm-eval is not needed, and the one line where the package is missing."""

import importlib
import sys

import pytest

from eft_ext._extras import MissingExtra
from eft_ext.integrations.harness.rows import batches, cut, left_padded
from python_tests.helpers.without_extras import hidden


def test_a_missing_package_is_one_line(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("lm_eval", "eft_ext.integrations.lm_eval"))]:
        monkeypatch.delitem(sys.modules, name)
    line = r"^eft_ext\.integrations\.lm_eval needs lm_eval: pip install 'eft_ext\[lm-eval\]'$"
    with hidden("lm_eval"), pytest.raises(MissingExtra, match=line):
        importlib.import_module("eft_ext.integrations.lm_eval")


def test_a_context_is_cut_from_the_left():
    """Reads as many tokens as there may be; the last one of the continuation is not read."""
    assert cut([1, 2, 3], [4, 5], 9) == ((1, 2, 3), (4, 5))
    assert cut([1, 2, 3], [4, 5], 4) == ((1, 2, 3), (4, 5))
    assert cut([1, 2, 3], [4, 5], 3) == ((2, 3), (4, 5))
    assert cut([1, 2, 3], [4, 5], 2) == ((3,), (4, 5))
    for context, continuation, message in (
        ([1], [4, 5, 6], r"^continuation: expected 1 to 2 tokens \(max_length\), got 3"),
        ([1], [], "^continuation: .* got 0"),
        ([], [4], "^context: expected at least one token"),
    ):
        with pytest.raises(ValueError, match=message):
            cut(context, continuation, 2)


def test_batches_keep_contexts_together():
    rows = [((1, 1, 1, 1, 1), (2,)), ((3, 3), (4,)), ((1, 1, 1, 1, 1), (5, 6, 7, 8)), ((9, 9), (9,)), ((3, 3), (5,))]
    assert list(batches([*rows, rows[0]], 1)) == [[rows[0], rows[2]], [rows[1], rows[4]], [rows[3]]]
    assert [len(batch) for batch in batches(rows, 2)] == [4, 1]
    many = [((1, 2), (token,)) for token in range(150)]
    assert [len(batch) for batch in batches(many, 1)] == [64, 64, 22]
    assert [len(batch) for batch in batches(many, 100)] == [100, 50]
    assert list(batches([], 3)) == []


def test_a_beginning_that_all_have_does_not_make_a_batch_large():
    rows = [((0,), tuple(range(length))) for length in (5, 6, 7, 8)]
    assert [len(batch) for batch in batches(rows, 1)] == [1, 1, 1, 1]
    assert [len(batch) for batch in batches(rows, 3)] == [3, 1]


def test_batches_of_texts_of_about_one_length():
    rows = [(tuple(range(length)), (5,)) for length in (20, 400, 310, 90, 500, 30, 480, 60)]
    found = [[len(context) for context, _ in batch] for batch in batches(rows, 3)]
    assert found == [[500, 480, 400], [310], [90, 60], [30, 20]]
    assert [[len(context) for context, _ in batch] for batch in batches(rows, 2)][:2] == [[500, 480], [400, 310]]


def test_padding_is_what_the_mask_says():
    """Whatever token a row is made of."""
    prompts = left_padded([[0, 5], [0], [7, 0, 0]])
    assert prompts["input_ids"].tolist() == [[0, 0, 5], [0, 0, 0], [7, 0, 0]]
    assert prompts["attention_mask"].tolist() == [[0, 1, 1], [0, 0, 1], [1, 1, 1]]
