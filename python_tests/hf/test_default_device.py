"""torch's default device has no say: everything stands where the models are."""

import pytest
import torch

from eft_ext.hf import EFTLogitsProcessor, EmulatedModel, custom_generate

SAMPLED = dict(do_sample=True, top_k=0, top_p=0.9, temperature=1.3)


@pytest.mark.parametrize("options", [{}, {**SAMPLED, "seed": 3}, SAMPLED], ids=["greedy", "seeded", "sampled"])
@pytest.mark.parametrize("weights", [{}, {"beta": [0.5, 1.0, 1.5, 2.0]}, {"scale": 1.2, "conservative_top_p": 0.8}])
def test_generate(llamas, ragged, options, weights):
    ids, mask = ragged
    model = EmulatedModel(*llamas)
    options = dict(attention_mask=mask, max_new_tokens=8, **options, **weights)
    torch.manual_seed(5)
    expected = model.generate(ids, **options)
    torch.manual_seed(5)
    with torch.device("meta"):
        got = model.generate(ids, **options)
    assert torch.equal(got, expected)


def test_text_scores_and_processors(llamas, tokenizer):
    model = EmulatedModel(*llamas, tokenizer)
    options = dict(prompts={"tuned": ["three", "four", "5"]}, max_new_tokens=6, repetition_penalty=1.3)
    details = dict(return_dict_in_generate=True, output_scores=True, output_logits=True)
    expected = model.generate(["one", "another one", "x"], seed=[1, 2, 3], **SAMPLED, **options, **details)
    with torch.device("meta"):
        got = model.generate(["one", "another one", "x"], seed=[1, 2, 3], **SAMPLED, **options, **details)
    assert torch.equal(got.sequences, expected.sequences)
    assert torch.equal(got.scores[-1], expected.scores[-1])


def test_in_loops_of_others(llamas, ragged):
    large, tuned, base = llamas
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=6)
    expected = EmulatedModel(*llamas).generate(ids, **options)
    with torch.device("meta"):
        stock = large.generate(ids, custom_generate=custom_generate(tuned, base), **options)
        processor = EFTLogitsProcessor(tuned, base, attention_mask=mask, beta=[1.0] * 4)
        processed = large.generate(ids, logits_processor=[processor], **options)
    assert torch.equal(stock, expected)
    assert torch.equal(processed, expected)
