"""Scores and logits that are returned, and processors that see them."""

import pytest
import torch
from transformers import (
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

NEW = 12


@pytest.mark.parametrize("do_sample", [False, True])
def test_scores_and_logits(model, llamas, ragged, do_sample):
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=4, do_sample=do_sample, top_k=5, temperature=0.7, seed=3)
    plain = model.generate(ids, **options, eos_token_id=[999])
    out = model.generate(
        ids,
        **options,
        eos_token_id=[999],
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    assert torch.equal(out.sequences, plain), "looking does not change what is drawn"
    assert len(out.scores) == len(out.logits) == 4
    with torch.no_grad():
        z = [
            m(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits[:, -1, :264]
            for m in llamas
        ]
    z = z[0] + z[1] - z[2]
    torch.testing.assert_close(out.logits[0][:, :264], z, rtol=1e-4, atol=1e-4)
    assert out.scores[0].shape == out.logits[0].shape == (4, 272)
    assert (out.logits[0][:, 264:] == -torch.inf).all()
    if do_sample:
        kept = out.scores[0].isfinite()
        assert kept.sum(-1).tolist() == [5] * 4
        torch.testing.assert_close(out.scores[0][kept], (z / 0.7)[kept[:, :264]], rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(out.scores[0], out.logits[0])
    assert model.generate(ids, **options, return_dict_in_generate=True).scores is None


def test_scores_of_rows_that_have_ended(model, ragged, free):
    ids, mask = ragged
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=6,
        eos_token_id=int(free[0, 1]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert out.scores[-1].shape == (4, 272)
    assert out.scores[-1][0].softmax(-1)[0] == 1.0, "certain of the padding token"


class Forbid(LogitsProcessor):
    """A user's own, which insists on seeing every row."""

    def __init__(self, token, rows):
        self.token, self.rows = token, rows

    def __call__(self, input_ids, scores):
        assert input_ids.shape[0] == scores.shape[0] == self.rows
        return scores.index_fill(1, torch.tensor([self.token]), -torch.inf)


def test_processors_see_what_stock_generate_shows_them(model, llamas, ragged, free):
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=NEW, repetition_penalty=1.7, eos_token_id=int(free[0, 1]))
    forbid = Forbid(int(free[1, 0]), 4)
    expected = llamas[0].generate(ids, suppress_tokens=list(range(264, 272)), logits_processor=[forbid], **options)
    assert torch.equal(model.generate(ids, beta=0.0, logits_processor=[forbid], **options), expected)
    assert not (expected[:, 7:] == forbid.token).any()


def test_repetition_penalty_is_put_on_the_mixture(model, llamas, ragged):
    ids, _mask = ragged
    got = model.generate(ids[1:2], max_new_tokens=5, repetition_penalty=1.9)
    penalty, sequence = RepetitionPenaltyLogitsProcessor(1.9), ids[1:2]
    for _ in range(5):
        with torch.no_grad():
            z = [m(sequence).logits[:, -1, :264] for m in llamas]
        scores = penalty(sequence, z[0] + z[1] - z[2])
        sequence = torch.cat([sequence, scores.argmax(-1, keepdim=True)], 1)
    assert torch.equal(got, sequence)


@pytest.mark.parametrize(
    "weights",
    [{"beta": 0.6}, {"scale": 1.4}, {"scale": 1.2, "conservative_top_p": 0.5}, {"beta": [0.2, 0.4, 0.6, 0.8]}],
)
def test_processing_the_mixture_does_not_change_it(model, ragged, weights):
    """Tokens drawn by one fused step are those drawn from the combined logits."""
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=NEW, **weights)
    for how in ({}, {"do_sample": True, "seed": 1, "top_p": 0.9, "top_k": 30}):
        expected = model.generate(ids, **options, **how)
        assert torch.equal(
            model.generate(ids, **options, **how, logits_processor=[lambda ids, scores: scores]), expected
        )
