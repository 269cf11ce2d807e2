"""Guidance by a negative prompt, token for token as transformers does it."""

import pytest
import torch

from eft_ext import methods as m
from eft_ext.hf import EFTLogitsProcessor, EmulatedModel, custom_generate
from python_tests.helpers.naive import NEW, RAGGED, padded


@pytest.mark.slow
@pytest.mark.parametrize("negative", [None, [[60, 61, 62, 63]]])
def test_guidance_is_transformers_guidance(models, negative):
    large = models[0]
    ids = torch.tensor([[5, 6, 7, 8]])
    options = dict(max_new_tokens=NEW, eos_token_id=[999], suppress_tokens=[])
    prompts = None if negative is None else {"unconditional": negative}
    asked = {} if negative is None else {"negative_prompt_ids": torch.tensor(negative)}
    expected = large.generate(ids, guidance_scale=1.7, **asked, **options)
    model = EmulatedModel(model=large, method=m.Guidance(1.7))
    got = model.generate(ids, prompts=prompts, **options)
    assert torch.equal(got, expected)
    stock = custom_generate(method=m.Guidance(1.7))
    assert torch.equal(large.generate(ids, custom_generate=stock, prompts=prompts, **options), got)
    processor = EFTLogitsProcessor(unconditional=large, method=m.Guidance(1.7), prompts=prompts)
    for _ in range(2):  # the second time with the same prompt
        assert torch.equal(large.generate(ids, logits_processor=[processor], **options), got)
    other = torch.tensor([[9, 8, 7]])
    if negative is None:  # a new prompt is recognised
        again = large.generate(other, logits_processor=[processor], **options)
        assert torch.equal(again, model.generate(other, **options))
    else:
        with pytest.raises(ValueError, match=r"^prompts: expected those of this prompt; .* reset"):
            large.generate(other, logits_processor=[processor], **options)
        processor.reset(prompts={"unconditional": [[1, 2]]})
        again = large.generate(other, logits_processor=[processor], **options)
        assert torch.equal(again, model.generate(other, prompts={"unconditional": [[1, 2]]}, **options))
        processor.reset(prompts={"unconditional": [[1, 2], [3, 4]]})
        with pytest.raises(ValueError, match=r"^prompts\['unconditional'\]: expected 1 rows, got 2"):
            large.generate(other, logits_processor=[processor], **options)


def test_guidance_of_ragged_rows(models):
    ids, mask = padded(RAGGED)
    model = EmulatedModel(model=models[0], method=m.Guidance(1.7))
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    together = model.generate(ids, attention_mask=mask, **options)
    for row, prompt in enumerate(RAGGED):
        alone = model.generate([prompt], **options)
        assert torch.equal(together[row, 7:], alone[0, len(prompt) :])
