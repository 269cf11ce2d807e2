"""The engine on a device: what its graphs, rounds of drafts and loops draw is what the eager tier draws."""

import copy
import re
import warnings

import pytest
import torch

from eft_ext.hf import EmulatedModel

pytestmark = pytest.mark.gpu
SLOWER = "the step is not captured|no loop on the device"  # what is said where a graph or a loop fails
SAMPLED = dict(do_sample=True, temperature=1.2, top_k=0, top_p=0.95, seed=3)


@pytest.fixture
def device():
    return "cuda"  # tests of the tests run them on the CPU


@pytest.fixture
def model(model_of, family, device):
    own = (model_of(family, 0, 32, 272), model_of(family, 1, 16), model_of(family, 2, 16))
    return EmulatedModel(*(copy.deepcopy(member).to(device) for member in own))


@pytest.mark.parametrize("how", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_every_family_draws_the_eager_tiers_tokens(model, family, ragged, how, device):
    """Three generations: the first ones warm up and capture, the last replays what they left."""
    ids, mask = (x.to(device) for x in ragged)
    options = dict(attention_mask=mask, max_new_tokens=40, eos_token_id=[999], **how)
    want = model.generate(ids, tier="eager", **options)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for tier in ("static", "async", "async", "device_loop", "device_loop"):
            assert torch.equal(model.generate(ids, tier=tier, **options), want), tier
    slow = [str(warning.message) for warning in said if re.search(SLOWER, str(warning.message))]
    assert slow == [] or family == "falcon", slow  # which indexes with a list, and that is copied from the host


def test_rounds_of_drafts_are_captured(model_of, ragged, device):
    llamas = (model_of("llama", 0, 32, 272), model_of("llama", 1, 16), model_of("llama", 2, 16))
    model = EmulatedModel(*(copy.deepcopy(member).to(device) for member in llamas))
    ids, mask = (x.to(device) for x in ragged)
    options = dict(attention_mask=mask, max_new_tokens=40, eos_token_id=[999])
    want = model.generate(ids, tier="eager", **options)
    sampled = model.generate(ids, speculate=3, tier="static", **options, **SAMPLED)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=SLOWER)
        for drafts in (3, 3, "auto"):
            assert torch.equal(model.generate(ids, speculate=drafts, **options), want), f"speculate={drafts}"
        assert torch.equal(model.generate(ids, speculate=3, **options, **SAMPLED), sampled)


def test_threads_that_generate_at_once(model_of, ragged, device):
    """Each with its own model, while graphs of the other are captured."""
    from concurrent.futures import ThreadPoolExecutor

    llamas = (model_of("llama", 0, 32, 272), model_of("llama", 1, 16), model_of("llama", 2, 16))
    ids, mask = (x.to(device) for x in ragged)
    options = dict(attention_mask=mask, max_new_tokens=40, eos_token_id=[999], **SAMPLED)

    def generated(_):
        own = EmulatedModel(*(copy.deepcopy(member).to(device) for member in llamas))
        return [own.generate(ids, **options) for _ in range(3)]

    with ThreadPoolExecutor(2) as pool:
        runs = [tokens for run in pool.map(generated, range(2)) for tokens in run]
    assert all(torch.equal(tokens, runs[0]) for tokens in runs)
