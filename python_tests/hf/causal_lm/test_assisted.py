"""Drafts, what a loop returns beside tokens, streams, and threads."""

import copy
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

from eft_ext import methods as m
from eft_ext.hf import EmulatedModel
from python_tests.helpers.mixtures import PlainMixture, weighted
from python_tests.helpers.naive import naive
from python_tests.helpers.repeating import NEW, OPTIONS, PROMPT, ids, new
from python_tests.helpers.slow_params import slowly


@pytest.mark.slow
def test_drafts(emulated, small, expected):
    causal = emulated.causal_lm()
    other = EmulatedModel(expert=small[1], amateur=small[2], method=m.Contrast()).causal_lm()
    for more in (dict(assistant_model=causal.tuned), dict(assistant_model=other), dict(prompt_lookup_num_tokens=3)):
        assert new(causal.generate(ids(), **OPTIONS, **more)) == expected
        assert new(emulated.generate(ids(), **OPTIONS, **more)) == expected
    with pytest.raises(ValueError, match=r"^assistant_early_exit: "):
        causal.generate(ids(), assistant_early_exit=1)


@pytest.mark.slow
def test_drafting_for_another(emulated, small, models):
    """The weights of a call are those of the model that is asked, not of its draft."""
    causal = emulated.causal_lm()
    alone = small[0].generate(ids(), **OPTIONS)
    assert torch.equal(small[0].generate(ids(), assistant_model=causal, **OPTIONS), alone)
    whole = EmulatedModel(*small, beta=0.3).causal_lm()
    betas = naive(small, lambda step, x: x[0] + 0.7 * (x[1] - x[2]), [PROMPT] * 3, NEW)
    assert new(whole.generate(ids(), beta=0.7, assistant_model=causal, **OPTIONS)) == betas
    assert new(causal.generate(ids(), beta=0.7, assistant_model=causal, **OPTIONS)) == betas


def test_sampling_with_drafts_that_are_always_right(emulated):
    """A draft that is the model itself is accepted throughout."""
    causal = emulated.causal_lm()
    options = dict(max_new_tokens=NEW, do_sample=True, top_k=5, eos_token_id=[999])
    torch.manual_seed(0)
    got = causal.generate(ids(), assistant_model=copy.deepcopy(causal), **options)
    assert got.shape == (1, len(PROMPT) + NEW)
    for at in range(len(PROMPT), got.shape[1]):
        with torch.no_grad():
            assert got[0, at] in causal(got[:, :at]).logits[0, -1].topk(5).indices


def test_outputs_of_each_model(emulated, small, expected):
    for name, model in emulated.models.items():
        got = emulated.generate(
            ids(), **OPTIONS, output_hidden_states=True, outputs_of=name, return_dict_in_generate=True
        )
        assert new(got) == expected
        with torch.no_grad():
            states = model(got.sequences[:, :-1], output_hidden_states=True).hidden_states
        assert len(got.hidden_states) == NEW
        for layer, whole in enumerate(states):
            parts = torch.cat([step[layer] for step in got.hidden_states], dim=1)
            torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)


def test_attentions(models):
    own = [copy.deepcopy(model) for model in models[:3]]
    causal = EmulatedModel(*own).causal_lm()
    causal.set_attn_implementation("eager")
    got = causal.generate(ids(), **OPTIONS, output_attentions=True, outputs_of="base", return_dict_in_generate=True)
    whole = own[2](got.sequences[:, :-1], output_attentions=True).attentions
    torch.testing.assert_close(got.attentions[-1][1][0, :, -1], whole[1][0, :, -1], atol=1e-5, rtol=1e-4)


class Heard(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], 0

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended += 1


@pytest.mark.parametrize("more", [{}, {"output_hidden_states": True}, {"prompt_lookup_num_tokens": 2}], ids=str)
def test_streams(emulated, expected, more):
    for model in (emulated, emulated.causal_lm()):
        heard = Heard()
        model.generate(ids(), streamer=heard, **OPTIONS, **more)
        assert heard.tokens == PROMPT + expected
        assert heard.ended == 1


def test_a_stream_that_is_refused_ends(emulated):
    heard = Heard()
    with pytest.raises(ValueError, match=r"streamer"):
        emulated.generate(ids(), streamer=heard, num_beams=2)
    assert heard.ended == 1


def test_text_of_stop_strings(model, tokenizer, llamas):
    options = dict(num_beams=2, max_new_tokens=NEW, eos_token_id=[999])
    prompt = torch.tensor([[*PROMPT[:7], 9]])
    plain = PlainMixture(llamas, weighted(1, 1, -1))
    free = plain.generate(prompt, **options, use_cache=False)
    stop = next(text for token in free[0, 9:].tolist() if (text := tokenizer.decode(token)).isalnum())
    expected = plain.generate(prompt, **options, use_cache=False, stop_strings=[stop], tokenizer=tokenizer)
    assert expected.shape[1] < free.shape[1]
    assert torch.equal(model.generate(prompt, **options, stop_strings=[stop]), expected)
    bare = EmulatedModel(*llamas).causal_lm()
    assert torch.equal(bare.generate(prompt, **options, stop_strings=[stop], tokenizer=tokenizer), expected)
    with pytest.raises(ValueError, match=r"^stop_strings: expected a tokenizer"):
        bare.generate(prompt, **options, stop_strings=[stop])


def test_healing_the_last_token(model, llamas, tokenizer):
    """The tokenizer reaches transformers' loops, and not the forward pass."""
    plain = PlainMixture(llamas, weighted(1, 1, -1))
    options = dict(token_healing=True, **OPTIONS)
    expected = plain.generate(ids(), **options, use_cache=False, tokenizer=tokenizer)
    assert torch.equal(model.generate(ids(), **options), expected)
    assert torch.equal(EmulatedModel(*llamas).causal_lm().generate(ids(), **options, tokenizer=tokenizer), expected)


def test_time_limit(emulated):
    got = emulated.causal_lm().generate(ids(), num_beams=2, max_new_tokens=10**6, max_time=0.2, eos_token_id=[999])
    assert got.shape[1] < 128


@pytest.mark.parametrize("more", [*slowly({}), {"num_beams": 2}], ids=str)
def test_threads_with_weights_of_their_own(emulated, small, more):
    causal, both = emulated.causal_lm(), Barrier(2)
    alone = [
        PlainMixture(small, weighted(1, beta, -beta)).generate(ids(), use_cache=False, **OPTIONS, **more)
        for beta in (0.0, 1.5)
    ]

    def run(beta):
        both.wait()
        return [causal.generate(ids(), beta=beta, **OPTIONS, **more) for _ in range(4)]

    with ThreadPoolExecutor(2) as pool:
        for got, expected in zip(pool.map(run, (0.0, 1.5)), alone, strict=True):
            assert all(torch.equal(each, expected) for each in got)


def test_under_inference_mode(emulated, expected):
    with torch.inference_mode():
        assert new(emulated.causal_lm().generate(ids(), **OPTIONS)) == expected
        assert new(emulated.generate(ids(), **OPTIONS, output_hidden_states=True)) == expected
