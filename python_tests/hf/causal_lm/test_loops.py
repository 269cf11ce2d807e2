"""Transformers' own loops over the mixture's forward pass, against the same loops over a plain model of it."""

import copy
from functools import cache

import pytest
import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers.modeling_outputs import CausalLMOutput

from eft_ext import methods as m
from eft_ext.hf import EmulatedCache, EmulatedModel
from python_tests.helpers.mixtures import MIXTURES, PlainMixture, weighted
from python_tests.helpers.naive import RAGGED, naive, named, padded
from python_tests.helpers.slow_params import slowly_but

NEW = 6


def prompts():
    ids, mask = padded(RAGGED)
    return dict(input_ids=ids, attention_mask=mask, max_new_tokens=NEW)


class Shift(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores.roll(1, -1)


class AtTwelve(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= 12)


BEAMS = {
    "beams": dict(num_beams=3),
    "several of a prompt": dict(num_beams=4, num_return_sequences=3),
    "long ones": dict(num_beams=3, length_penalty=2.0, early_stopping=True),
    "drawn": dict(num_beams=3, do_sample=True, temperature=0.7, top_k=20, top_p=0.9),
    "processors": dict(num_beams=2, repetition_penalty=1.3, no_repeat_ngram_size=2, bad_words_ids=[[5], [6, 7]]),
    "own processors": dict(num_beams=2, logits_processor=[Shift()], stopping_criteria=[AtTwelve()]),
    "allowed tokens": dict(num_beams=3, prefix_allowed_tokens_fn=lambda row, ids: list(range(20 + row, 60))),
    "static": dict(num_beams=3, cache_implementation="static"),
    "no cache": dict(num_beams=3, use_cache=False),
    "guidance": dict(guidance_scale=1.7),
    "guidance, beams": dict(guidance_scale=1.7, num_beams=2),
}
FAST = ("beams", "drawn", "processors", "guidance")


@pytest.fixture
def plain(llamas):
    return PlainMixture(llamas, weighted(1, 0.8, -0.8))


@pytest.fixture
def emulated(llamas):
    return EmulatedModel(*llamas, beta=0.8)


def same(got, expected):
    assert torch.equal(got.sequences, expected.sequences)
    assert len(got.scores) == len(expected.scores)
    for one, other in zip(got.scores, expected.scores, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    if getattr(expected, "sequences_scores", None) is not None:
        torch.testing.assert_close(got.sequences_scores, expected.sequences_scores, atol=1e-4, rtol=1e-4)
        assert torch.equal(got.beam_indices, expected.beam_indices)


@pytest.mark.parametrize("name", slowly_but(FAST, BEAMS))
def test_loops(emulated, plain, name):
    options = dict(prompts(), return_dict_in_generate=True, output_scores=True, **BEAMS[name])
    uncached = {key: value for key, value in options.items() if key != "cache_implementation"} | {"use_cache": False}
    torch.manual_seed(3)
    expected = plain.generate(**uncached)
    for model in (emulated, emulated.causal_lm()):
        torch.manual_seed(3)
        same(model.generate(**options), expected)


@pytest.mark.parametrize("more", [{}, {"num_beams": 3}], ids=str)
def test_scores_of_the_tokens(emulated, plain, more):
    """In every loop scores have one width, which transformers reckons with."""
    options = dict(prompts(), return_dict_in_generate=True, output_scores=True, output_logits=True, **more)
    found = []
    for model in (emulated.causal_lm(), plain):
        out = model.generate(**options, **({"use_cache": False} if model is plain else {}))
        assert {step.shape[1] for step in (*out.scores, *out.logits)} == {264}
        beams = out.beam_indices if more else None
        found.append(model.compute_transition_scores(out.sequences, out.scores, beams, normalize_logits=not more))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_guidance_with_negative_prompts(emulated, plain):
    ids, mask = padded([row[:2] for row in RAGGED])
    options = dict(prompts(), guidance_scale=1.7, negative_prompt_ids=ids, negative_prompt_attention_mask=mask)
    expected = plain.generate(**options, use_cache=False)
    assert torch.equal(emulated.generate(**options), expected)
    assert torch.equal(emulated.causal_lm().generate(**options), expected)


@pytest.mark.parametrize("name", slowly_but(("contrast", "interpolate", "plain"), MIXTURES))
def test_beams_of_every_method(models, name):
    method, places, z_of = MIXTURES[name]
    chosen = named(method, places, models)
    expected = PlainMixture(chosen.values(), z_of).generate(
        **prompts(), num_beams=3, use_cache=False, eos_token_id=[999]
    )
    model = EmulatedModel(method=method, **chosen)
    columns = {"suppress_tokens": list(range(264, 272))} if len(places) == 1 else {}  # random in its padded columns
    assert torch.equal(model.generate(**prompts(), num_beams=3, eos_token_id=[999], **columns), expected)


class PlainGuidance(PlainMixture):
    """Guidance whose second reading begins at the prompt's last token."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, **_):
        (model,), last = self.members, prompts()["input_ids"].shape[1] - 1
        whole = model(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)
        alone = model(input_ids[:, last:], use_cache=False)
        return CausalLMOutput(logits=self.z_of([x.logits[:, -1:, : self.vocab] for x in (whole, alone)]))


@pytest.mark.slow
def test_a_prompt_that_one_model_does_not_read(llamas):
    model = EmulatedModel(model=llamas[0], method=m.Guidance(1.6))
    plain = PlainGuidance(llamas[:1], weighted(1.6, -0.6), vocab=272)
    options = dict(prompts(), eos_token_id=[999])
    for more in ({}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}, {"output_hidden_states": True}):
        expected = plain.generate(**options, **more, use_cache=False)
        assert torch.equal(model.generate(**options, **more), expected)
        assert torch.equal(model.causal_lm().generate(**options, **more), expected)


def test_what_a_prompt_that_is_not_read_excludes(llamas):
    model = EmulatedModel(model=llamas[0], method=m.Guidance(1.6))
    ids = torch.tensor([[5, 6, 7, 5, 6, 7]])
    for name, value in (("prefill_chunk_size", 3), ("prompt_lookup_num_tokens", 2), ("assistant_model", llamas[0])):
        with pytest.raises(ValueError, match=rf"^{name}: expected none, since unconditional reads the last token"):
            model.generate(ids, **{name: value})


def test_an_end_of_the_tuned_model_ends_beams(llamas):
    large, tuned, base = map(copy.deepcopy, llamas)
    plain = PlainMixture(llamas, weighted(1, 1, -1))
    options = dict(prompts(), num_beams=3, length_penalty=0.0)
    end = int(plain.generate(**options, use_cache=False)[0, 9])
    tuned.generation_config.eos_token_id = [2, end]
    expected = plain.generate(**options, use_cache=False, eos_token_id=[2, end])
    assert end in expected
    got = EmulatedModel(large, tuned, base).causal_lm().generate(**options)
    assert torch.equal(got, expected)


WAYS = {
    "engine": {},
    "static": dict(cache_implementation="static"),
    "no cache": dict(use_cache=False),
    "prefill in chunks": dict(prefill_chunk_size=3),
    "prefill in chunks, static": dict(prefill_chunk_size=3, cache_implementation="static"),
    "states": dict(output_hidden_states=True, return_dict_in_generate=True),
    "user's cache": dict(past_key_values=True),
}


@cache
def greedy(*models):
    return [naive(models, lambda step, x: x[0] + 0.8 * (x[1] - x[2]), [row] * 3, NEW) for row in RAGGED]


@pytest.mark.parametrize("name", slowly_but(("static", "states", "user's cache"), WAYS))
def test_ways_that_change_no_token(emulated, llamas, name):
    expected = greedy(*llamas)
    for model in (emulated, emulated.causal_lm()):
        options = dict(prompts(), eos_token_id=[999], **WAYS[name])
        if "past_key_values" in options:
            empty = {name: DynamicCache(config=x.config) for name, x in emulated.models.items()}
            options["past_key_values"] = EmulatedCache(empty)
        got = model.generate(**options)
        got = getattr(got, "sequences", got)
        assert got[:, 7:].tolist() == expected


def test_a_config_and_arguments(emulated, plain):
    config = GenerationConfig(num_beams=3, max_new_tokens=4, eos_token_id=2, pad_token_id=0)
    given = prompts()
    expected = plain.generate(**given, generation_config=config, use_cache=False)
    assert expected.shape[1] == 7 + NEW
    for model in (emulated, emulated.causal_lm()):
        assert torch.equal(
            model.generate(given["input_ids"], config, attention_mask=given["attention_mask"], max_new_tokens=NEW),
            expected,
        )
    assert config.max_new_tokens == 4


def test_what_only_the_engine_has(emulated):
    for name, value in (("seed", 1), ("speculate", 4), ("tier", "eager")):
        with pytest.raises(ValueError, match=rf"^{name}: expected none beside num_beams=3, which transformers decodes"):
            emulated.generate(**prompts(), num_beams=3, **{name: value})
    with pytest.raises(ValueError, match=r"^prompts: expected none for tuned beside num_beams=3"):
        emulated.generate(**prompts(), num_beams=3, prompts={"tuned": [[5]] * 4})
    with pytest.raises(ValueError, match=r"^method: expected fixed parameters beside num_beams=3"):
        emulated.generate(**prompts(), num_beams=3, beta=lambda step: 1.0)
    assert "num_beams=3" in str(emulated.plan(**prompts(), num_beams=3))
    with pytest.raises(ValueError, match=r"^continuous batching: "):
        emulated.causal_lm().init_continuous_batching()
