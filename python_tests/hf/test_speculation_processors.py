"""Drafts with logits processors between mixture and draw: the tokens are those without drafts."""

import pytest
import torch
from transformers import LogitsProcessor, StoppingCriteria, SynthIDTextWatermarkLogitsProcessor

from eft_ext import methods as m
from eft_ext.hf import EmulatedModel
from python_tests.helpers.slow_params import slowly_but
from python_tests.helpers.watchers import Columns, Counted

pytestmark = pytest.mark.filterwarnings("error:speculate")
NEW = 24
FREE = {"eos_token_id": [999], "max_new_tokens": NEW, "pad_token_id": 0}


class OddAfterEven(LogitsProcessor):
    """Lets an odd token follow an even one and the other way round, by rows: what a grammar does."""

    def __call__(self, ids, scores):
        parity = (ids[:, -1:] + torch.arange(len(ids))[:, None]) % 2
        return scores.masked_fill(torch.arange(scores.shape[1]) % 2 == parity, -torch.inf)


def allowed(row, text):
    """Tokens that `prefix_allowed_tokens_fn` allows: others for each row, by how long the text is."""
    return list(range(5 + (row + len(text)) % 7, 200, 3))


PROCESSED = {
    "repetition": {"repetition_penalty": 1.7},
    "n-grams, at least so many": {"no_repeat_ngram_size": 2, "min_new_tokens": 9},
    "prefix": {"prefix_allowed_tokens_fn": allowed},
    "own": {"logits_processor": [OddAfterEven()]},
    "typical, which is drawn by itself": {"typical_p": 0.9, "do_sample": True, "temperature": 1e-4},
}


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("options", slowly_but(("repetition", "own"), PROCESSED))
def test_rows_that_end_one_by_one(model, ragged, options, k):
    ids, mask = ragged
    given = {**PROCESSED[options], "attention_mask": mask, "beta": 0.4, "seed": 3, "top_k": 0}
    free = model.generate(ids, **given, **FREE)[:, ids.shape[1] :]
    ends = [int(free[0, 9]), int(free[2, 15])]
    for eos in ([999], ends):
        call = {**given, **FREE, "eos_token_id": eos}
        want = model.generate(ids, **call)
        out = model.generate(ids, speculate=k, return_dict_in_generate=True, **call)
        assert torch.equal(out.sequences, want)
        assert out.speculation.drafted > 0


def test_sampled_tokens_where_drafts_are_always_right(llamas, tokenizer, ragged):
    """scale = 0 is the draft model: processed likewise, every draft is accepted, and is what would have been drawn."""
    model = EmulatedModel(*llamas, tokenizer, scale=0.0)
    ids, mask = ragged
    call = {"do_sample": True, "seed": 8, "top_k": 0, "top_p": 0.9, "attention_mask": mask, "repetition_penalty": 1.5}
    want = model.generate(ids, **call, **FREE)
    out = model.generate(ids, speculate=4, return_dict_in_generate=True, **call, **FREE)
    assert torch.equal(out.sequences, want)
    assert out.speculation.acceptance == 1


def test_with_criteria_schedules_and_streams(llamas, tokenizer, ragged):
    class PerRow(StoppingCriteria):
        def __call__(self, ids, scores, **kwargs):
            return ids.shape[1] - length >= torch.tensor([3, 8, 5, 17])

    model = EmulatedModel(*llamas, tokenizer, method=m.UpScale(lambda step: [0.1 * step, 0.5, 1.0, 2.0 - 0.1 * step]))
    ids, mask = ragged
    length = ids.shape[1]
    call = {"attention_mask": mask, "no_repeat_ngram_size": 2, "stopping_criteria": [PerRow()], **FREE}
    want = model.generate(ids, **call)
    streamer = Columns()
    got = model.generate(ids, speculate=4, streamer=streamer, **call)
    assert torch.equal(got, want)
    assert streamer.seen[1:] == got[:, length:].T.tolist()


def test_a_criterion_without_an_end_of_text(model, ragged):
    """No token can stand in for what follows an end: as in transformers, rows go on until all have ended."""
    ids, mask = ragged
    call = {"attention_mask": mask, "max_new_tokens": NEW, "beta": 0.4, "eos_token_id": -1}
    free = model.generate(ids, **call)
    stop = int(free[1, ids.shape[1] + 6])
    want = model.generate(ids, stopping_criteria=[Counted(stop)], **call)
    assert torch.equal(model.generate(ids, speculate=4, stopping_criteria=[Counted(stop)], **call), want)


def test_a_processor_that_keeps_something(model):
    def call(**options):
        watermark = SynthIDTextWatermarkLogitsProcessor(5, [7], 64, 0, 32, "cpu")
        return model.generate("abc", logits_processor=[watermark], **FREE, **options)

    with pytest.warns(UserWarning, match="speculate: decoding without drafts, since SynthIDText.* keeps"):
        got = call(speculate=4)
    assert torch.equal(got, call())
