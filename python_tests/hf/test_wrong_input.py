"""Refusals of what is not supported or does not fit: with the argument's name, before a model has run."""

import copy
import re

import numpy as np
import pytest
import torch

from eft_ext.hf import EFTLogitsProcessor, EmulatedModel, custom_generate

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`")
UNSUPPORTED = {
    "assistant_early_exit": 1,
    "use_mtp": True,
    "assistant_tokenizer": object(),
    "negative_prompt_attention_mask": torch.ones(1, 2),
    "inputs_embeds": torch.ones(1, 2, 3),
    "position_ids": torch.ones(1, 2),
    "token_type_ids": torch.ones(1, 2),
}
OF_OTHER_LOOPS = {  # which `EmulatedModel.generate` leaves to transformers, and a custom loop does not have
    "num_beams": 4,
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "prompt_lookup_num_tokens": 3,
    "guidance_scale": 1.5,
    "output_attentions": True,
    "output_hidden_states": True,
    "cache_implementation": "offloaded",
    "prefill_chunk_size": 2,
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported(model, name):
    with pytest.raises(ValueError, match=rf"^{name}: .*not supported"):
        model.generate([[5, 6]], max_new_tokens=2, **{name: UNSUPPORTED[name]})


@pytest.mark.parametrize("name", OF_OTHER_LOOPS)
def test_unsupported_in_stock_generate(llamas, name):
    large, tuned, base = llamas
    with pytest.raises(ValueError, match=rf"^{name}: .*not supported"):
        large.generate(
            torch.tensor([[5, 6]]),
            max_new_tokens=2,
            custom_generate=custom_generate(tuned, base),
            **{name: OF_OTHER_LOOPS[name]},
        )


@pytest.mark.parametrize("name", OF_OTHER_LOOPS)
def test_what_another_loop_has_not(model, name):
    call = {"max_new_tokens": 2, name: OF_OTHER_LOOPS[name]}
    for option, value in {"seed": 1, "speculate": 2, "tier": "async"}.items():
        with pytest.raises(ValueError, match=rf"^{option}: expected none beside {name}=.*, which transformers decodes"):
            model.generate([[5, 6]], **{option: value}, **call)
    with pytest.raises(ValueError, match=rf"^prompts: expected none for tuned beside {name}="):
        model.generate([[5, 6]], prompts={"tuned": [[5]]}, **call)


def test_a_filled_cache_in_stock_generate(llamas):
    large, tuned, base = llamas
    cache = large(torch.tensor([[5, 6]])).past_key_values
    with pytest.raises(ValueError, match=r"^past_key_values: "):
        large.generate(torch.tensor([[5, 6, 7]]), past_key_values=cache, custom_generate=custom_generate(tuned, base))


CALLS = {
    "prompts: expected the keys large, tuned, base, got 'tune'": dict(prompts={"tune": [[1]]}),
    "prompts['large']: expected nothing beside inputs": dict(prompts={"large": [[1]]}),
    "prompts['tuned']: expected 1 rows, got 2": dict(prompts={"tuned": [[1], [2]]}),
    "large: token id 272 is outside this model's vocabulary of 272": dict(inputs=[[5, 272]]),
    "large: token id -1 is outside this model's vocabulary of 272": dict(inputs=[[-1, 5]]),
    "pad_token_id: expected 0 to 271, the first model's vocabulary, got 272": dict(pad_token_id=272),
    "pad_token_id: expected 0 to 271, the first model's vocabulary, got -1": dict(pad_token_id=-1),
    "eos_token_id: expected a token id or a list of them, got 1.5": dict(eos_token_id=1.5),
    "eos_token_id: expected a token id or a list of them, got True": dict(eos_token_id=True),
    "inputs: expected text, since the tokenizer has no chat template, got a chat": dict(
        inputs=[{"role": "user", "content": "hi"}]
    ),
    "prompts['base']: expected text, since the tokenizer has no chat template": dict(
        prompts={"base": [{"role": "user", "content": "hi"}]}
    ),
    "beta: expected a finite number or one per row, got [1, nan]": dict(
        inputs=[[5], [6]], beta=[1, float("nan")], do_sample=True
    ),
    "beta: expected a finite number or one per row, got nan": dict(beta=float("nan")),
    "scale: expected a finite number or one per row, got tensor(inf)": dict(scale=torch.tensor(torch.inf)),
    "tuned: token id 264 is outside this model's vocabulary of 264": dict(prompts={"tuned": [[264]]}),
    "attention_mask: expected a token in every row, row 1 is all padding": dict(
        inputs=torch.ones(2, 2, dtype=torch.long), attention_mask=torch.tensor([[1, 1], [0, 0]])
    ),
    "prompts['base']: expected text, a chat or token ids, got 7": dict(prompts={"base": 7}),
    "input_ids: expected either": dict(input_ids=[[5]]),
    "attention_mask is [1, 3], input_ids [1, 2]": dict(attention_mask=torch.ones(1, 3)),
    "beta: expected nothing beside scale": dict(beta=1.0, scale=2.0),
    "beta: expected nothing beside conservative_top_p": dict(beta=1.0, conservative_top_p=0.9),
    "beta: expected a number or 1 values": dict(beta=[1.0, 2.0]),
    "beta: expected a number or 2 or 4 values": dict(
        inputs=[[5], [6]], num_return_sequences=2, do_sample=True, beta=[1.0] * 3
    ),
    "seed: expected a number or 1 of them": dict(seed=[1, 2]),
    "top_p: expected a number between 0 and 1, got 1.5": dict(do_sample=True, top_p=1.5),
    "expected at least one token in every row, got an empty row 1": dict(inputs=[[5], []]),
    "inputs: expected token ids [rows, length], got torch.float32": dict(inputs=torch.ones(1, 2)),
    "not used by the model: ['max_new_token']": dict(max_new_token=3),
}


@pytest.mark.parametrize("message", CALLS)
def test_calls_that_do_not_fit(model, message):
    arguments = {"inputs": [[5, 6]], **CALLS[message]}
    with pytest.raises(ValueError, match=re.escape(message)):
        model.generate(**arguments)


def test_positions_in_stock_generate(llamas, ragged):
    large, tuned, base = llamas
    ids, mask = ragged
    options = dict(max_new_tokens=2, custom_generate=custom_generate(tuned, base))
    usual = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = large.generate(ids, attention_mask=mask, **options)
    assert torch.equal(large.generate(ids, attention_mask=mask, position_ids=usual, **options), expected)
    for mask_given in ({"attention_mask": mask}, {}):
        with pytest.raises(ValueError, match=r"^position_ids: not supported"):
            large.generate(ids, position_ids=usual + 1, **mask_given, **options)


def test_types_of_seeds(model):
    for seed in (
        1.5,
        True,
        "a",
        ["a"],
        [1.5],
        [True],
        torch.tensor([1.5]),
        torch.tensor(True),
        np.float64(3),
        {},
        [[1]],
    ):
        with pytest.raises((TypeError, ValueError), match=r"^seed: expected"):
            model.generate([[5]], seed=seed)
    with pytest.raises(TypeError, match=r"^seed: expected an integer or one per row, got \[1.5, 2.5\]"):
        model.generate([[5], [6]], seed=[1.5, 2.5])


def test_types_of_weights(llamas, model):
    for beta in ("a", ["a"], [[1.0], "b"], True, object()):
        with pytest.raises(TypeError, match=r"^beta: expected a finite number or one per row, got"):
            model.generate([[5]], beta=beta)
    with pytest.raises(TypeError, match=r"^conservative_top_p: expected a finite number"):
        EmulatedModel(*llamas, conservative_top_p="a")


def test_no_prompt(model, monkeypatch):
    monkeypatch.setattr(model.large.generation_config, "bos_token_id", None)
    with pytest.raises(ValueError, match=r"^inputs: expected"):
        model.generate(max_new_tokens=3)


def test_text_without_a_tokenizer(llamas):
    model = EmulatedModel(*llamas)
    with pytest.raises(ValueError, match=r"^inputs: text needs a tokenizer"):
        model.generate("hello")
    with pytest.raises(ValueError, match=r"^stop_strings: expected a tokenizer"):
        model.generate([[5]], stop_strings=["x"])
    with pytest.raises(ValueError, match=r"^tokenizer: "):
        model.generate_text([[5]])


def test_weights_of_a_model_and_of_a_call(llamas):
    model = EmulatedModel(*llamas, beta=1.5)
    with pytest.raises(ValueError, match=r"^conservative_top_p: .*beta=1.5 does not apply"):
        model.generate([[5]], conservative_top_p=0.9)
    with pytest.raises(ValueError, match=r"^beta: expected nothing beside scale"):
        EmulatedModel(*llamas, beta=1.0, scale=1.0)
    assert model.generate([[5]], conservative_top_p=0.9, scale=1.2, max_new_tokens=2).shape == (1, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_invalid_row_is_named(llamas, ragged, value):
    large, tuned, base = copy.deepcopy(llamas)
    ids, mask = ragged

    def spoil(module, args, output):
        output.logits[2, -1, 9] = value

    tuned.register_forward_hook(spoil)
    with pytest.raises(RuntimeError, match=r"^row 2, new token 0: the logits of tuned hold NaN or .inf"):
        EmulatedModel(large, tuned, base).generate(ids, attention_mask=mask, max_new_tokens=3)


@pytest.mark.parametrize("options", [{}, {"speculate": 3}, {"speculate": 3, "repetition_penalty": 1.01}], ids=str)
@pytest.mark.parametrize("place", range(3), ids=["large", "tuned", "base"])
def test_the_model_is_named_wherever_a_row_becomes_invalid(llamas, ragged, free, place, options):
    """One that has no logits once it reads the fifth token of row 1."""
    models, (ids, mask) = list(copy.deepcopy(llamas)), ragged
    with torch.no_grad():
        models[place].model.embed_tokens.weight[free[1, 4]] = torch.nan
    said = rf"^row 1, new token 5: the logits of {('large', 'tuned', 'base')[place]} hold NaN"
    with pytest.raises(RuntimeError, match=said):
        EmulatedModel(*models).generate(
            ids, attention_mask=mask, max_new_tokens=12, eos_token_id=[999], pad_token_id=0, **options
        )


def test_nothing_left_to_choose(model):
    with pytest.raises(RuntimeError, match=r"^row 0, new token 0: no token is left"):
        model.generate([[5]], logits_processor=[lambda ids, scores: scores.fill_(-torch.inf)], max_new_tokens=3)


def test_processor_mask_of_another_prompt(llamas):
    _large, tuned, base = llamas
    processor = EFTLogitsProcessor(tuned, base, attention_mask=torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"^attention_mask: expected .*\[1, up to 2\].*reset"):
        processor(torch.tensor([[5, 6]]), torch.zeros(1, 272))


@pytest.mark.parametrize(
    ("text", "said"),
    [("it \ud800", "a lone surrogate, U\\+D800, at character 4"), ("\udce9t", "a byte that is not UTF-8, 0xe9, at")],
)
def test_what_is_no_text(model, text, said):
    for call, name in {
        lambda: model.generate_text(["hi", text]): "inputs",
        lambda: model.generate("hi", prompts={"tuned": text}): "prompts\\['tuned'\\]",
        lambda: model.score(text): "inputs",
        lambda: model.score("hi", text): "responses",
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: expected text, got {said}"):
            call()
