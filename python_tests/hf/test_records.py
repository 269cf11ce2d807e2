"""Records of scores: texts put together again, whatever a token holds."""

import json

import pytest

from eft_ext import EmulatedModel
from eft_ext.analysis import Record
from eft_ext.hf.scoring.records import pieces, records
from python_tests.hf.conftest import EOS


@pytest.mark.parametrize(
    "text", ["plain words", "é 你好 👩‍🚀 ok", "مرحبا بالعالم", " lead, tail ", "a\n\tb<eos>", "👍"]
)
def test_the_pieces_are_the_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = pieces(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == text
    assert "�" not in "".join(found)


def test_a_record_says_what_the_score_says(llamas, tokenizer):
    model = EmulatedModel(*llamas, tokenizer)
    score = model.score(["ab", "c"], ["xyz", "é<eos>"], candidates=2, num_changed=2)
    found = records(score, tokenizer, ["ab", "c"], {"beta": 1.0})
    assert [record.prompt for record in found] == ["ab", "c"]
    assert ["".join(t.text for t in record.tokens) for record in found] == ["xyz", "é<eos>"]
    assert [t.special for t in found[1].tokens] == [False, False, True]
    assert found[1].tokens[-1].id == EOS
    for b, record in enumerate(found):
        for t, token in enumerate(record.tokens, start=score.ids.shape[1] - len(record.tokens)):
            assert token.id == score.ids[b, t]
            assert token.logprobs == pytest.approx(score.tokens.logprobs[b, t].tolist())
            assert token.tv == pytest.approx(float(score.tokens.tv[b, t]))
            assert [c.id for c in token.up] == score.tokens.up_ids[b, t].tolist()
            shares = [c.logprobs[-1] for c in token.candidates]
            assert shares == sorted(shares, reverse=True)
        assert Record.from_dict(json.loads(json.dumps(record.to_dict(), allow_nan=False))) == record


def test_marks_of_speculation(llamas, tokenizer):
    score = EmulatedModel(*llamas, tokenizer).score("ab", "xyz")
    marks = ["accepted", "rejected", None]
    (record,) = records(score, tokenizer, speculation=[marks])
    assert [token.speculation for token in record.tokens] == marks
    with pytest.raises(ValueError, match=r"speculation\[0\]: expected 3 marks"):
        records(score, tokenizer, speculation=[marks[:2]])
