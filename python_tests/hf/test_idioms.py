"""Idioms of stock transformers that a call may carry, and what wrappers of causal models read."""

import warnings

import pytest
import torch
from transformers import EosTokenCriteria, GenerationConfig

from eft_ext import EFTLogitsProcessor, EmulatedModel, custom_generate
from eft_ext.methods import Contrast
from python_tests.helpers.ways import NEW, WAYS, greedy

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
    loop = custom_generate(*llamas[1:])
    error = (ValueError, ImportError)  # transformers makes a quantized one before it calls the loop
    with pytest.raises(error, match=rf"^cache_implementation: .* got '{kind}'; .*static where its family|You need"):
        llamas[0].generate(PROMPT, custom_generate=loop, cache_implementation=kind, **CALL)
    plan = EmulatedModel(*llamas).plan(PROMPT, cache_implementation=kind, **CALL)
    assert (plan.tier, plan.because) == ("transformers", f"cache_implementation={kind!r}")


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


@pytest.fixture
def chatty(build, naive):
    """Models of which tuned ends at a token that large does not know as an end, and that token."""
    models = [build("llama", seed, 16, 264) for seed in (0, 1, 2)]
    text = naive(models, WEIGHTS, [PROMPT[0].tolist()] * 3, NEW)
    end = next(token for place, token in enumerate(text) if place >= 3 and token not in text[:place])
    models[1].generation_config.eos_token_id = [2, end]
    return models, text[: text.index(end) + 1], text


def test_the_ends_of_the_behaviour_end_every_call(chatty):
    models, cut, text = chatty
    call = {**CALL, "pad_token_id": 0}
    loop = custom_generate(*models[1:])
    for found in (
        EmulatedModel(*models).generate(PROMPT, **call),
        models[0].generate(PROMPT, custom_generate=loop, **call),
        models[0].generate(PROMPT, custom_generate=loop, speculate=2, **call),
        models[0].generate(PROMPT, custom_generate=loop, tier="eager", **call),
    ):
        assert found[0, 5:].tolist() == cut
    for ends in ([999], 7):
        for found in (
            EmulatedModel(*models).generate(PROMPT, eos_token_id=ends, **call),
            models[0].generate(PROMPT, custom_generate=loop, eos_token_id=ends, **call),
        ):
            assert found[0, 5:].tolist() == text[: text.index(7) + 1 if 7 in text and ends == 7 else NEW]


def test_a_text_that_may_not_end_yet_does_not_end_as_the_behaviour_does(chatty):
    models, cut, _ = chatty
    for name, least in (("min_new_tokens", len(cut) + 1), ("min_length", len(cut) + 6)):
        call = {**CALL, "pad_token_id": 0, name: least}
        mine = EmulatedModel(*models).generate(PROMPT, **call)
        stock = models[0].generate(PROMPT, custom_generate=custom_generate(*models[1:]), **call)
        assert torch.equal(mine, stock)
        assert cut[-1] not in mine[0, 5 : 5 + len(cut)].tolist()


@torch.no_grad()
def penalised(models, ids, penalty, new):
    """A plain loop: the mixture over the whole text, then transformers' rule for repetition_penalty, written out."""
    text = list(ids)
    for _ in range(new):
        large, tuned, base = (model(torch.tensor([text])).logits[0, -1, :264].double() for model in models)
        z = large + tuned - base
        for token in set(text):
            z[token] = z[token] / penalty if z[token] > 0 else z[token] * penalty
        text.append(int(z.argmax()))
    return text[len(ids) :]


SETTINGS = {
    "repetition_penalty": 1.7,
    "exponential_decay_length_penalty": (2, 1.5),
    "encoder_repetition_penalty": 1.7,
    "forced_eos_token_id": 2,
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_act_before_a_processor(name, llamas):
    processor = EFTLogitsProcessor(*llamas[1:])
    call = {**CALL, "eos_token_id": 2, "pad_token_id": 0, name: SETTINGS[name]}
    with pytest.warns(UserWarning, match=rf"^{name}: applied to large alone, before EFTLogitsProcessor; .*custom_gen"):
        llamas[0].generate(torch.tensor([[1, 4, 8]]), logits_processor=[processor], **call)


def test_settings_act_on_the_mixture_in_a_custom_loop(llamas):
    ids = torch.tensor([[1, 4, 8]])
    expected = penalised(llamas, ids[0].tolist(), 1.7, NEW)
    call = {**CALL, "eos_token_id": [999], "pad_token_id": 0, "repetition_penalty": 1.7}
    for found in (
        llamas[0].generate(ids, custom_generate=custom_generate(*llamas[1:]), **call),
        EmulatedModel(*llamas).generate(ids, **call),
    ):
        assert found[0, 3:].tolist() == expected


def test_processors_that_only_exclude_tokens_may_come_first(llamas, naive):
    ids = PROMPT[0].tolist()
    banned = naive(llamas, WEIGHTS, [ids] * 3, 1)
    call = {**CALL, "eos_token_id": [999], "pad_token_id": 0, "suppress_tokens": banned}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processor = EFTLogitsProcessor(*llamas[1:])
        found = llamas[0].generate(PROMPT, logits_processor=[processor], **call)
    assert torch.equal(found, llamas[0].generate(PROMPT, custom_generate=custom_generate(*llamas[1:]), **call))
    # A plausibility bound depends on the largest of all tokens, so there the order matters.
    contrast = EFTLogitsProcessor(amateur=llamas[1], method=Contrast())
    with pytest.warns(UserWarning, match=r"^SuppressTokensLogitsProcessor: applied to expert alone"):
        llamas[0].generate(PROMPT, logits_processor=[contrast], **call)


@pytest.mark.parametrize("form", [[2, 2], (2,), torch.tensor([2]), torch.tensor([2, 2])], ids=repr)
def test_forms_of_end_tokens(form, chatty):
    models, cut, _ = chatty
    models[1].generation_config.eos_token_id = torch.tensor(models[1].generation_config.eos_token_id)
    models[0].generation_config.eos_token_id = form
    call = {**CALL, "pad_token_id": 0}
    assert EmulatedModel(*models).generate(PROMPT, **call)[0, 5:].tolist() == cut
    loop = custom_generate(*models[1:])
    assert models[0].generate(PROMPT, custom_generate=loop, **call)[0, 5:].tolist() == cut
    ends = torch.tensor([998, cut[1]])
    for found in (
        EmulatedModel(*models).generate(PROMPT, eos_token_id=ends, **call),
        models[0].generate(PROMPT, custom_generate=loop, eos_token_id=ends, **call),
    ):
        assert found[0, 5:].tolist() == cut[:2]


def test_a_criterion_of_the_callers_own(chatty):
    models, cut, _ = chatty
    call = {**CALL, "pad_token_id": 0, "stopping_criteria": [EosTokenCriteria(cut[1])]}
    for found in (
        EmulatedModel(*models).generate(PROMPT, **call),
        models[0].generate(PROMPT, custom_generate=custom_generate(*models[1:]), **call),
    ):
        assert found[0, 5:].tolist() == cut[:2]


@pytest.mark.parametrize("name", ["min_new_tokens", "min_length"])
def test_a_first_model_without_ends(name, chatty):
    models, cut, _ = chatty
    models[0].generation_config.eos_token_id = None
    loop = custom_generate(*models[1:])
    call = {**CALL, "pad_token_id": 0}
    assert models[0].generate(PROMPT, custom_generate=loop, **call)[0, 5:].tolist() == cut
    call[name] = len(cut) + (6 if name == "min_length" else 1)
    found = models[0].generate(PROMPT, custom_generate=loop, **call)
    assert cut[-1] not in found[0, 5 : 5 + len(cut)].tolist()
    assert torch.equal(found, EmulatedModel(*models).generate(PROMPT, **call))


def test_settings_in_a_configuration_are_looked_at_too(llamas):
    model = EmulatedModel(*llamas)
    two = GenerationConfig(num_return_sequences=2, do_sample=True, max_new_tokens=2)
    with pytest.raises(ValueError, match=r"^num_return_sequences: expected 1"):
        model.generate_batch(PROMPT, generation_config=two)
    config = GenerationConfig(max_new_tokens=2)
    config.repetition_penalty = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match=r"^repetition_penalty: expected a number, .* a tensor \[2\]"):
        model.generate(PROMPT, generation_config=config)
