"""Loops of the caller's own, and caches that go from call to call."""

import pytest
import torch
from transformers import DynamicCache

from eft_ext.hf import EmulatedCache
from python_tests.helpers.naive import VOCAB, naive
from python_tests.helpers.repeating import NEW, OPTIONS, PROMPT, ids, new, up


def contrastive(model, input_ids, logits_processor, stopping_criteria, generation_config, **given):
    """Contrastive search as its repository on the hub does it: all candidates in one pass over a repeated cache."""
    k, alpha = 4, 0.6
    states = {"output_hidden_states": True, "use_cache": True}
    out = model(input_ids, past_key_values=given["past_key_values"], **states)
    hidden = out.hidden_states[-1]
    while True:
        p, candidates = out.logits[:, -1].softmax(-1).topk(k)
        cache = out.past_key_values
        cache.batch_repeat_interleave(k)
        tried = model(candidates.view(-1, 1), past_key_values=cache, **states)
        one = torch.nn.functional.normalize(tried.hidden_states[-1], dim=-1)
        seen = torch.nn.functional.normalize(hidden, dim=-1)
        penalty = (seen @ one[:, 0].T).amax(1)[0]
        best = ((1 - alpha) * p[0] - alpha * penalty).argmax()
        cache.batch_select_indices(best[None])
        out.logits, hidden = tried.logits[best][None], torch.cat([hidden, tried.hidden_states[-1][best][None]], 1)
        input_ids = torch.cat([input_ids, candidates[:, best][:, None]], 1)
        if stopping_criteria(input_ids, None).all():
            assert cache.get_seq_length() == input_ids.shape[1]
            return input_ids


def test_a_loop_of_the_callers_own(emulated, small):
    got = emulated.causal_lm().generate(ids(), custom_generate=contrastive, **OPTIONS)
    assert torch.equal(emulated.generate(ids(), custom_generate=contrastive, **OPTIONS), got)
    text = list(PROMPT)
    with torch.no_grad():
        for _ in range(NEW):
            z = up(0, [x(torch.tensor([text])).logits[0, -1, :VOCAB] for x in small])
            scores = {}
            for p, token in zip(*z.softmax(-1).topk(4), strict=True):
                state = small[0].model(torch.tensor([[*text, int(token)]])).last_hidden_state[0]
                near = torch.cosine_similarity(state[:-1], state[-1:], dim=-1).max()
                scores[int(token)] = float(0.4 * p - 0.6 * near)
            text.append(max(scores, key=scores.get))
    assert got[0].tolist() == text


def test_going_on_from_a_cache(emulated, small, expected):
    """Two turns: what the first has read is not read again."""
    causal = emulated.causal_lm()
    first = causal.generate(
        ids(), max_new_tokens=4, eos_token_id=[999], return_dict_in_generate=True, output_hidden_states=True
    )
    assert isinstance(first.past_key_values, EmulatedCache)
    assert first.past_key_values.get_seq_length() == len(PROMPT) + 3
    lengths = []
    hook = causal.base.register_forward_pre_hook(
        lambda m, a, k: lengths.append(k["input_ids"].shape[1]), with_kwargs=True
    )
    rest = causal.generate(
        first.sequences,
        attention_mask=torch.ones_like(first.sequences),
        max_new_tokens=NEW - 4,
        eos_token_id=[999],
        past_key_values=first.past_key_values,
    )
    hook.remove()
    assert new(rest) == expected
    assert set(lengths) == {1}
    cache = EmulatedCache({name: DynamicCache(config=x.config) for name, x in emulated.models.items()})
    turn = causal.generate(ids(), past_key_values=cache, **OPTIONS)
    text = [*turn[0].tolist(), 9, 8, 7]
    again = emulated.generate([text], attention_mask=[[1] * len(text)], past_key_values=cache, **OPTIONS)
    assert new(again, len(text)) == naive(small, up, [text] * 3, NEW)
    filled = small[0](ids(), use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"^past_key_values: expected an EmulatedCache, got DynamicCache"):
        causal.generate(torch.tensor([[*PROMPT, 4]]), past_key_values=filled, **OPTIONS)
    with pytest.raises(ValueError, match=r"^cache_implementation: expected none beside past_key_values, got 'static'"):
        causal.generate(ids(), past_key_values=cache, cache_implementation="static", **OPTIONS)
