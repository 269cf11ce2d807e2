"""Idioms of stock transformers that a call may carry, and what wrappers of causal models read."""

import pytest
import torch
from transformers import GenerationConfig

from eft_ext import EmulatedModel, custom_generate
from python_tests.hf.ways import NEW, WAYS, greedy

PROMPT = torch.tensor([[1, 5, 9, 33, 7]])
CALL = {"max_new_tokens": NEW, "do_sample": False}
WEIGHTS = (1.0, 1.0, -1.0)


@pytest.fixture
def expected(llamas, naive):
    return naive(llamas, WEIGHTS, [PROMPT[0].tolist()] * 3, NEW)


@pytest.mark.parametrize("way", WAYS)
def test_ids_that_no_model_has_end_nothing(way, llamas, expected):
    assert greedy(way, llamas, PROMPT, eos_token_id=-1, pad_token_id=-1) == [expected]


def test_padding_that_is_used_has_to_be_a_token(llamas):
    with pytest.raises(ValueError, match=r"^pad_token_id: expected 0 to 271, .* got -1"):
        greedy("custom_generate", llamas, PROMPT, eos_token_id=2, pad_token_id=-1)


@pytest.mark.parametrize("kind", ["static", "dynamic", "hybrid"])
def test_cache_implementation(kind, llamas, expected, monkeypatch):
    call = {**CALL, "eos_token_id": [999]}
    model = EmulatedModel(*llamas)
    assert model.generate(PROMPT, cache_implementation=kind, **call)[0, 5:].tolist() == expected
    monkeypatch.setattr(llamas[0].generation_config, "cache_implementation", kind)
    assert model.generate(PROMPT, **call)[0, 5:].tolist() == expected
    loop = custom_generate(*llamas[1:])
    assert llamas[0].generate(PROMPT, custom_generate=loop, **call)[0, 5:].tolist() == expected


@pytest.mark.parametrize("kind", ["offloaded", "quantized", "offloaded_static"])
def test_caches_that_lie_elsewhere(kind, llamas):
    with pytest.raises(ValueError, match=rf"^cache_implementation: .* got '{kind}'; .*static where its family"):
        EmulatedModel(*llamas).generate(PROMPT, cache_implementation=kind, **CALL)


def test_a_call_without_input_begins_with_bos(llamas, naive, tokenizer):
    model = EmulatedModel(*llamas, tokenizer)
    call = {**CALL, "eos_token_id": [999]}
    expected = naive(llamas, WEIGHTS, [[1]] * 3, NEW)
    assert model.generate(**call).tolist() == [[1, *expected]]
    assert model.generate_batch(**call) == [expected]
    assert model.generate_text(**call) == [tokenizer.decode(expected, skip_special_tokens=True)]
    own = naive(llamas, WEIGHTS, [[7]] * 3, NEW)
    assert model.generate(bos_token_id=7, **call).tolist() == [[7, *own]]
    assert model.generate(generation_config=GenerationConfig(bos_token_id=7, **call)).tolist() == [[7, *own]]
    with pytest.raises(ValueError, match=r"^inputs: expected token ids"):
        model.generate(prompts={"tuned": [[5]]}, **call)


@pytest.mark.parametrize("nothing", [[], (), torch.zeros(0, 3, dtype=torch.long)], ids=["list", "tuple", "tensor"])
def test_no_prompts_have_no_answers(nothing, llamas):
    model = EmulatedModel(*llamas)
    assert model.generate_batch(nothing) == []
    assert model.generate_batch(input_ids=nothing) == []
    assert list(model.generate_as_completed(nothing)) == []
    with pytest.raises(ValueError, match=r"^batch_size: "):
        model.generate_batch(nothing, batch_size=0)


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens"])
def test_one_number_for_all_rows(name, llamas):
    for value, got in ((torch.tensor([0.5, 0.7]), r"a tensor \[2\]"), ([0.5, 0.7], "list")):
        with pytest.raises(ValueError, match=rf"^{name}: expected a number, .* got {got}"):
            EmulatedModel(*llamas).generate([[5], [6]], do_sample=True, **{name: value})


def test_what_wrappers_of_causal_models_read(llamas):
    model = EmulatedModel(*llamas)
    large = llamas[0]
    for name in ("config", "generation_config", "dtype", "device", "main_input_name", "name_or_path"):
        assert getattr(model, name) == getattr(large, name)
    assert model.eval() is model
    with pytest.raises(TypeError, match=r"^EmulatedModel: has no forward pass; score gives log-probabilities"):
        model(PROMPT)


@pytest.mark.parametrize("broken", [("large",), ("tuned", "base")], ids="-".join)
def test_who_is_blamed_for_a_row_that_cannot_be_scored(broken, build):
    models = {name: build("llama", seed, 16, 264) for seed, name in enumerate(("large", "tuned", "base"))}
    for name in broken:
        models[name].lm_head.weight.data[5] = torch.nan
    ids = torch.tensor([[1, 9, 8, 7], [1, 9, 8, 7]])
    said = rf"^row 0, token -3 from the end: the logits of {' and '.join(broken)} hold NaN or \+inf$"
    for positions in (None, 2):
        with pytest.raises(RuntimeError, match=said):
            EmulatedModel(**models).score(ids, positions=positions)
