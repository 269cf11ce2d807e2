"""Arguments that users pass to transformers' generate, passed to EmulatedModel.generate."""

import copy
import time
from contextlib import ExitStack

import pytest
import torch
from transformers import (
    GenerationConfig,
    RwkvConfig,
    RwkvForCausalLM,
    StoppingCriteria,
    StopStringCriteria,
)

from eft_ext.hf import EmulatedModel, custom_generate

NEW = 12


def test_rows_that_end_leave_the_batch(trio, ragged, shapes_read):
    """In every family, so with every kind of cache: the rows that stay are not disturbed."""
    model = EmulatedModel(*trio)
    ids, mask = ragged
    free = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=[999])[:, ids.shape[1] :]
    ends = [int(free[0, 2]), int(free[3, 5])]
    first = [min((list(row).index(e) for e in ends if e in row), default=NEW - 1) for row in free.tolist()]
    expected = free.clone()
    for row, last in enumerate(first):
        expected[row, last + 1 :] = 0
    with ExitStack() as stack:
        calls = [stack.enter_context(shapes_read(module)) for module in trio]
        got = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, eos_token_id=ends)
    assert torch.equal(got[:, ids.shape[1] :], expected[:, : max(first) + 1])
    rows = [sum(last >= step for last in first) for step in range(max(first) + 1)]
    assert min(rows) < 4
    assert calls == [[(4, 7), *((n, 1) for n in rows[1:])]] * 3


def test_only_the_last_position_is_computed(model, ragged, llamas):
    ids, mask = ragged
    shapes = []
    hooks = [m.register_forward_hook(lambda *a: shapes.append(tuple(a[-1].logits.shape[:2]))) for m in llamas]
    model.generate(ids, attention_mask=mask, max_new_tokens=3)
    for hook in hooks:
        hook.remove()
    assert set(shapes) == {(4, 1)}


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`")
def test_lengths(model, ragged):
    ids, mask = ragged
    assert model.generate(ids, attention_mask=mask, max_length=10).shape[1] == 10
    assert model.generate(ids, attention_mask=mask).shape[1] == 7 + 20  # transformers' default
    early = model.generate(ids, attention_mask=mask, max_new_tokens=10**6, max_time=0.3)
    assert 7 < early.shape[1] < 10_000


def test_generation_config_and_overrides(model, ragged):
    ids, mask = ragged
    config = GenerationConfig(max_new_tokens=5, stop_strings=["\u0001\u0001"])
    got = model.generate(ids, config, attention_mask=mask)
    assert got.shape[1] == 12
    assert config.stop_strings == ["\u0001\u0001"], "the caller's object is left alone"
    assert torch.equal(got, model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=5))


def test_stop_strings(model, ragged, free, tokenizer, llamas):
    ids, mask = ragged
    # Most of the 256 byte tokens are no text by themselves.
    row, at = next((r, t) for r in range(4) for t in range(2, NEW) if tokenizer.decode(free[r, t]).isalnum())
    text = tokenizer.decode(free[row, at])
    only = ids[row][mask[row].bool()][None]
    got = model.generate(only, max_new_tokens=NEW, stop_strings=[text])
    new = got[0, only.shape[1] :].tolist()
    assert new == free[row, : len(new)].tolist()
    assert text in tokenizer.decode(new[-1])
    assert len(new) <= at + 1
    large, tuned, base = llamas
    stock = large.generate(
        only,
        max_new_tokens=NEW,
        custom_generate=custom_generate(tuned, base),
        stopping_criteria=[StopStringCriteria(tokenizer, [text])],
    )
    assert torch.equal(stock, got)


def test_stop_strings_of_the_large_models_own_config(model, llamas, tokenizer, free, ragged):
    ids, mask = ragged
    row, at = next((r, t) for r in range(4) for t in range(1, NEW) if tokenizer.decode(free[r, t]).isalnum())
    only, own = ids[row][mask[row].bool()][None], llamas[0].generation_config
    options = dict(max_new_tokens=NEW, eos_token_id=[999])
    expected = model.generate(only, stop_strings=[tokenizer.decode(free[row, at])], **options)
    own.stop_strings = [tokenizer.decode(free[row, at])]
    try:
        assert torch.equal(model.generate(only, **options), expected)
        assert torch.equal(model.generate(only, GenerationConfig(**options)), expected)
        assert torch.equal(EmulatedModel(*llamas).generate(only, tokenizer=tokenizer, **options), expected)
        assert model.generate(only, stop_strings=None, **options).shape[1] == only.shape[1] + NEW
        with pytest.raises(ValueError, match=r"^stop_strings: expected a tokenizer"):
            EmulatedModel(*llamas).generate(only, **options)
    finally:
        own.stop_strings = None


def test_stopping_criteria(model, ragged):
    class AtNine(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 9, device=input_ids.device)

    ids, mask = ragged
    assert model.generate(ids, attention_mask=mask, max_new_tokens=NEW, stopping_criteria=[AtNine()]).shape[1] == 9


def test_rows_without_an_end_token_go_on_as_in_transformers(model, llamas, ragged):
    class FirstRow(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.arange(input_ids.shape[0]) < max(0, input_ids.shape[1] - 8)

    ids, mask = ragged
    config = GenerationConfig(max_new_tokens=NEW, pad_token_id=0)
    large = llamas[0]
    saved, large.generation_config.eos_token_id = large.generation_config.eos_token_id, None
    model.tuned.generation_config.eos_token_id, also = None, model.tuned.generation_config.eos_token_id
    try:
        options = dict(attention_mask=mask, stopping_criteria=[FirstRow()])
        expected = large.generate(ids, config, suppress_tokens=list(range(264, 272)), **options)
        assert torch.equal(model.generate(ids, config, beta=0.0, **options), expected)
    finally:
        large.generation_config.eos_token_id = saved
        model.tuned.generation_config.eos_token_id = also


def test_an_end_of_the_tuned_model_ends_a_row(model, ragged, free, llamas):
    ids, mask = ragged
    tuned = llamas[1]
    saved, tuned.generation_config.eos_token_id = tuned.generation_config.eos_token_id, [2, int(free[0, 1])]
    try:
        got = model.generate(ids[:1], attention_mask=mask[:1], max_new_tokens=NEW)
        other = model.generate(ids[:1], attention_mask=mask[:1], max_new_tokens=NEW, eos_token_id=2)
    finally:
        tuned.generation_config.eos_token_id = saved
    assert got[0, 7:].tolist() == free[0, : got.shape[1] - 7].tolist()
    assert got.shape[1] <= 9
    assert other.shape[1] == 7 + NEW


def test_time_limit_is_kept(model):
    start = time.monotonic()
    model.generate([[5, 6]], max_new_tokens=10**6, max_time=0.2)
    assert time.monotonic() - start < 5


def test_offloaded_weights(llamas, ragged):
    accelerate = pytest.importorskip("accelerate")
    ids, mask = ragged
    options = dict(attention_mask=mask, max_new_tokens=4)
    expected = EmulatedModel(*llamas).generate(ids, **options)
    away = [accelerate.cpu_offload(copy.deepcopy(model), execution_device="cpu") for model in llamas]
    assert away[0].lm_head.weight.device.type == "meta"
    for models in ((*llamas[:1], *away[1:]), away):
        assert torch.equal(EmulatedModel(*models).generate(ids, **options), expected)


def test_a_model_without_a_cache_is_read_anew(llamas):
    config = RwkvConfig(vocab_size=264, hidden_size=16, num_hidden_layers=2, context_length=64)
    torch.manual_seed(0)
    rwkv = RwkvForCausalLM(config).eval()
    large, _, base = llamas
    with pytest.warns(UserWarning, match=r"^tuned: RwkvForCausalLM takes no key-value cache"):
        got = EmulatedModel(large, rwkv, base).generate([[5, 6, 7]], max_new_tokens=5, eos_token_id=[999])
    ids = torch.tensor([[5, 6, 7]])
    for _ in range(5):
        with torch.no_grad():
            z = [m(ids).logits[:, -1, :264] for m in (large, rwkv, base)]
        ids = torch.cat([ids, (z[0] + z[1] - z[2]).argmax(-1, keepdim=True)], 1)
    assert torch.equal(got, ids)
