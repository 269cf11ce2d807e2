"""Ends of a row or a stream while several tokens come at once: criteria, strings, time, tables of positions."""

import time

import pytest
import torch
from transformers import StoppingCriteria, TextStreamer

from eft_ext.hf import EmulatedModel
from eft_ext.hf.generation.texts import Texts
from python_tests.helpers.watchers import Columns, Counted

pytestmark = pytest.mark.filterwarnings("error:speculate")
NEW = 14
NO_END = {"eos_token_id": [999], "max_new_tokens": NEW}


def test_criteria_strings_and_time(model, tokenizer):
    free = model.generate("abc", beta=0.4, **NO_END)
    stop = int(free[0, 3 + 6])
    criterion = Counted(stop)
    options = {"stopping_criteria": [criterion], "beta": 0.4}
    want = model.generate("abc", **NO_END, **options)
    steps = len(criterion.seen)
    got = model.generate("abc", speculate=5, **NO_END, **options)
    assert torch.equal(got, want)
    assert criterion.seen[steps:] == criterion.seen[:steps], "each token is looked at, as without drafts"
    text = tokenizer.decode(free[0, 3 + 4 : 3 + 6])
    if text.isprintable() and text.isascii():
        options = {"stop_strings": [text], "beta": 0.4}
        assert torch.equal(
            model.generate("abc", speculate=5, **NO_END, **options), model.generate("abc", **NO_END, **options)
        )
    began = time.perf_counter()
    model.generate("abc", speculate=3, max_new_tokens=110, eos_token_id=[999], max_time=0.05)
    assert time.perf_counter() - began < 20


def test_streaming(model, ragged, capsys, tokenizer):
    ids, mask = ragged
    streamer = Columns()
    out = model.generate(ids, attention_mask=mask, beta=0.3, speculate=3, streamer=streamer, **NO_END)
    assert streamer.seen[0] == ids.tolist()
    assert streamer.seen[1:] == out[:, ids.shape[1] :].T.tolist()
    assert streamer.ended == 1
    model.generate("abc", speculate=3, streamer=TextStreamer(tokenizer, skip_prompt=True), **NO_END)
    assert capsys.readouterr().out


@pytest.mark.parametrize("tier", [None, "static"])
def test_criteria_that_keep_something_for_each_row(model, ragged, tier):
    class PerRow(StoppingCriteria):
        def __call__(self, ids, scores, **kwargs):
            return ids.shape[1] - length >= torch.tensor([3, 8, 5, 1])

    ids, mask = ragged
    length = ids.shape[1]
    options = {"attention_mask": mask, "stopping_criteria": [PerRow()], "pad_token_id": 0, **NO_END}
    want = model.generate(ids, tier=tier, **options)
    assert torch.equal(model.generate(ids, tier=tier, speculate=4, **options), want)
    assert [int((row != 0).sum()) for row in want[:, length:]] == [3, 8, 5, 1]


@pytest.mark.parametrize("tier", [None, "static"])
def test_a_streamer_gets_all_columns_where_the_time_ends_unevenly(model, ragged, tier, monkeypatch):
    ids, mask = ragged
    said = []

    class Kept(TextStreamer):
        def put(self, value):
            said.append(value)

        def end(self):
            said.append(None)

    real, rounds = Texts.next_columns, []

    def late(texts, **how):
        """The clock strikes behind the third round."""
        rounds.append([len(t) for t in texts.tokens])
        if len(set(rounds[-1])) > 1:
            monkeypatch.setattr(time, "time", lambda: 1e12)
        return real(texts, **how)

    monkeypatch.setattr(Texts, "next_columns", late)
    options = {"attention_mask": mask, "eos_token_id": [999], "max_new_tokens": 60, "max_time": 1000.0}
    out = model.generate(ids, speculate=4, tier=tier, streamer=Kept(model.tokenizer), **options)
    assert len(set(rounds[-1])) > 1  # the rows did differ
    assert len(said) - 2 == out.shape[1] - ids.shape[1] < 60
    assert torch.equal(torch.stack(said[1:-1], dim=1), out[:, ids.shape[1] :])


@pytest.mark.slow
def test_a_table_of_positions_is_not_overrun(build):
    """128 positions: rows draft no further than there is room, wherever they stand."""
    trio = [build("gpt2", seed, 16, 264) for seed in (0, 1, 2)]
    model = EmulatedModel(*trio)
    ids = torch.randint(5, 200, (3, 100), generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 28, "eos_token_id": [999], "beta": 0.2}
    assert torch.equal(model.generate(ids, speculate=8, **options), model.generate(ids, **options))


@pytest.mark.parametrize("tier", [None, "static"])
def test_a_criterion_ends_rows_that_drafts_have_ended_later(llamas, tokenizer, ragged, tier):
    """A round brings a row's end of text, or its last token, and a criterion ends the row before that."""
    model = EmulatedModel(*llamas, tokenizer, scale=0.0)  # every draft is accepted
    ids, mask = ragged
    length, options = ids.shape[1], {"attention_mask": mask, "pad_token_id": 0, "tier": tier}
    free = model.generate(ids, **options, **NO_END)[:, length:]
    stop, end = int(free[1, 2]), int(free[1, 4])
    for eos, rows in (([end], [1]), ([end], [0, 1, 2, 3]), (-1, [1])):
        streamer, call = Columns(), {**options, "eos_token_id": eos, "max_new_tokens": 5, "attention_mask": mask[rows]}
        want = model.generate(ids[rows], stopping_criteria=[Counted(stop)], **call)
        got = model.generate(ids[rows], stopping_criteria=[Counted(stop)], speculate=6, streamer=streamer, **call)
        assert torch.equal(got, want)
        assert streamer.seen[1:] == got[:, length:].T.tolist()
