"""Tiers have names; their old numbers work for one version more, and say so."""

import re
import warnings

import pytest
import torch

from eft_ext import EmulatedModel, custom_generate
from eft_ext.hf.runners.decode_plan import TIERS

PROMPT = torch.tensor([[1, 5, 9, 33, 7]])
CALL = {"max_new_tokens": 4, "do_sample": True, "seed": 3, "eos_token_id": [999], "pad_token_id": 0}


def in_stock_generate(models, **call):
    return models[0].generate(PROMPT, custom_generate=custom_generate(*models[1:]), **call).tolist()


ENTRIES = {
    "generate": lambda models, **call: EmulatedModel(*models).generate(PROMPT, **call).tolist(),
    "plan": lambda models, **call: EmulatedModel(*models).plan(PROMPT, **call),
    "generate_batch": lambda models, **call: EmulatedModel(*models).generate_batch(PROMPT, **call),
    "custom_generate": in_stock_generate,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_numbers_work_and_warn_their_caller(entry, llamas):
    for number, name in enumerate(("eager", "static", "async", "device_loop")):
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            want = ENTRIES[entry](llamas, tier=name, **CALL)
        message = f"^tier: {number} is now called '{name}'; numbers go with 0.2$"
        with pytest.warns(DeprecationWarning, match=message) as said:
            assert ENTRIES[entry](llamas, tier=number, **CALL) == want
        assert {w.filename for w in said if w.category is DeprecationWarning} == {__file__}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("wrong", ["fast", "", "2", -1, 4, True, 2.0, ["static"]])
def test_others_are_refused_in_one_line(entry, wrong, llamas):
    message = f"^tier: expected one of eager, static, async, device_loop, got {re.escape(repr(wrong))}$"
    with pytest.raises(ValueError, match=message):
        ENTRIES[entry](llamas, tier=wrong, **CALL)


def test_plans_have_the_names(llamas):
    model = EmulatedModel(*llamas)
    assert [*TIERS] == ["eager", "static", "async", "device_loop"]
    for tier in ("eager", "static", "async"):
        plan = model.plan(tier=tier)
        assert plan.tier == tier
        assert str(plan).startswith(f"{tier}: {TIERS[tier]}\n")
