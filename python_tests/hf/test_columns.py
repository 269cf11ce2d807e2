"""Processors and scores have the large model's columns, also where the small models have fewer."""

import pytest
import torch
from transformers import WatermarkingConfig

from eft_ext.hf import EmulatedModel

NEW = 6
KEPT = dict(return_dict_in_generate=True, output_scores=True, output_logits=True)


@pytest.fixture
def model(llamas):
    return EmulatedModel(*llamas)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 1}, {"repetition_penalty": 1.3}])
def test_transition_scores(model, llamas, ragged, options):
    ids, mask = ragged
    out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=[999], **options, **KEPT)
    for normalize in (False, True):
        got = llamas[0].compute_transition_scores(out.sequences, out.scores, normalize_logits=normalize)
        for step, scores in enumerate(out.scores):
            row = scores.log_softmax(-1) if normalize else scores
            expected = row.gather(1, out.sequences[:, 7 + step, None])[:, 0]
            torch.testing.assert_close(got[:, step], expected)
            assert got.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"watermarking_config": WatermarkingConfig(bias=0.0)},
        {"bad_words_ids": [[270]]},
        {"sequence_bias": [[[270], 5.0]]},
        {"remove_invalid_values": True},
        {"renormalize_logits": True},
        {"suppress_tokens": [265, 271]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_processors_of_the_large_models_width(model, ragged, options):
    """None of these says anything about a token that all models have, so none changes what is drawn."""
    ids, mask = ragged
    for how in ({}, {"do_sample": True, "seed": 1, "top_p": 0.9, "top_k": 30}):
        asked = dict(attention_mask=mask, max_new_tokens=NEW, **how)
        expected = model.generate(ids, **asked)
        assert torch.equal(model.generate(ids, **asked, **options), expected)


def test_a_column_that_only_large_has_is_never_drawn(model):
    def prefer(ids, scores):
        assert scores.shape[1] == 272
        return scores.index_fill(1, torch.arange(264, 272), 1e4)

    out = model.generate([[5, 6]], max_new_tokens=NEW, logits_processor=[prefer])
    assert torch.equal(out, model.generate([[5, 6]], max_new_tokens=NEW))


@pytest.mark.parametrize("options", [{}, KEPT, {"repetition_penalty": 1.3}], ids=["fused", "scores", "processor"])
def test_padding_that_only_large_has(model, ragged, options):
    ids, mask = ragged
    asked = dict(attention_mask=mask, max_new_tokens=NEW, **options)
    free = model.generate(ids, **asked, eos_token_id=[999])
    ends = int((free.sequences if options is KEPT else free)[0, 8])
    got = model.generate(ids, **asked, eos_token_id=ends, pad_token_id=271)
    usual = model.generate(ids, **asked, eos_token_id=ends, pad_token_id=0)
    if options is KEPT:
        assert (got.scores[-1][0].softmax(-1) == torch.eye(272)[271]).all(), "certain of the padding token"
        got, usual = got.sequences, usual.sequences
    assert (got[0, 9:] == 271).all()
    assert torch.equal(got.masked_fill(got == 271, 0), usual)


def test_prompts_padded_with_what_only_large_has(model, ragged):
    ids, mask = ragged
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=NEW)
    for pad in (271, -100):
        padded = ids.masked_fill(mask == 0, pad)
        got = model.generate(padded, attention_mask=mask, max_new_tokens=NEW)
        assert torch.equal(got[:, 7:], expected[:, 7:])


def test_ends_that_are_no_tokens(llamas, ragged):
    """The first end of a text pads where nothing else does, as in transformers, if a model has it."""
    large, *small = llamas
    saved, large.generation_config.pad_token_id = large.generation_config.pad_token_id, None
    ids, mask = ragged
    try:
        model = EmulatedModel(large, *small)
        free = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=-1)
        assert free.shape == (4, 7 + NEW)
        got = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=[-1, int(free[0, 8])])
        assert (got[0, 8:] == free[0, 8]).all()
    finally:
        large.generation_config.pad_token_id = saved
