"""Token for token against a plain loop and against transformers itself, in fp32."""

import pytest
import torch

from eft_ext.hf import EFTLogitsProcessor, EmulatedModel, custom_generate
from python_tests.helpers.slow_params import slowly

NEW = 14


def rows_of(batch):
    ids, mask = batch
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]


MORE = slowly({}, {"scale": 1.5})


@pytest.mark.parametrize("option", [{"beta": 0.4}, *MORE], ids=["beta 0.4", "beta 1", "scale 1.5"])
def test_greedy_is_the_naive_loop(trio, batch, naive, cut, option):
    ids, mask = batch
    beta, scale = option.get("beta", 1.0), option.get("scale")
    weights = (1.0, beta, -beta) if scale is None else (scale, 1.0, -scale)
    expected = [naive(trio, weights, [row] * 3, NEW) for row in rows_of(batch)]
    got = EmulatedModel(*trio).generate(ids, attention_mask=mask, max_new_tokens=NEW, **option)
    assert torch.equal(got[:, : ids.shape[1]], ids)
    assert cut(got, ids.shape[1]) == expected


def test_beta_zero_is_the_large_model(trio, batch):
    ids, mask = batch
    # The large model is random in its padded columns too, which a trained one never chooses.
    expected = trio[0].generate(ids, attention_mask=mask, max_new_tokens=NEW, suppress_tokens=list(range(264, 272)))
    assert torch.equal(EmulatedModel(*trio).generate(ids, attention_mask=mask, max_new_tokens=NEW, beta=0.0), expected)


def test_large_equal_to_base_is_the_tuned_model(trio, batch):
    _, tuned, base = trio
    ids, mask = batch
    expected = tuned.generate(ids, attention_mask=mask, max_new_tokens=NEW)
    assert torch.equal(
        EmulatedModel(base, tuned, base).generate(ids, attention_mask=mask, max_new_tokens=NEW), expected
    )


def test_custom_generate_is_emulated_model(trio, ragged):
    large, tuned, base = trio
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=NEW, beta=0.7)
    expected = EmulatedModel(*trio).generate(ids, **options)
    assert torch.equal(large.generate(ids, custom_generate=custom_generate(tuned, base), **options), expected)


def test_logits_processor_in_stock_generate_is_emulated_model(trio, batch):
    large, tuned, base = trio
    ids, mask = batch
    expected = EmulatedModel(*trio).generate(ids, attention_mask=mask, max_new_tokens=NEW)
    processor = EFTLogitsProcessor(tuned, base, attention_mask=mask)
    got = large.generate(ids, attention_mask=mask, max_new_tokens=NEW, logits_processor=[processor])
    assert torch.equal(got, expected)


def test_per_model_prompts(trio, naive, cut):
    large = [[11, 12, 13], [21, 22, 23, 24, 25, 26, 27]]
    tuned = [[3, 11, 12, 13, 3, 50, 51], [3, 21, 22, 23, 24]]
    base = [[60], [61, 62, 63]]
    expected = [naive(trio, (1, 1, -1), rows, NEW) for rows in zip(large, tuned, base, strict=True)]
    got = EmulatedModel(*trio).generate(prompts={"large": large, "tuned": tuned, "base": base}, max_new_tokens=NEW)
    assert cut(got, 7) == expected
    assert got[0, :7].tolist() == [0, 0, 0, 0, 11, 12, 13]


def test_without_a_cache(llamas, ragged):
    ids, mask = ragged
    model = EmulatedModel(*llamas)
    expected = model.generate(ids, attention_mask=mask, max_new_tokens=NEW)
    assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=NEW, use_cache=False), expected)


def test_dtypes_may_differ(llamas, ragged):
    import copy

    large, tuned, base = llamas
    ids, mask = ragged
    model = EmulatedModel(large, copy.deepcopy(tuned).to(torch.bfloat16), copy.deepcopy(base).half())
    assert model.generate(ids, attention_mask=mask, max_new_tokens=4).shape == (4, 11)
