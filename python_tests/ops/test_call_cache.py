"""The short way for repeated calls gives what the long way gives, and checks nothing less."""

import pytest
import torch

from eft_ext.ops import fused_step
from eft_ext.ops.backends import call_cache, native
from python_tests.helpers.rows import models


@pytest.fixture(autouse=True)
def _forget():
    call_cache._calls.clear()


def test_a_repeated_call_draws_the_same_as_a_first_one():
    options = {"temperature": 0.7, "top_p": 0.9, "beta": 1.5}
    for step in range(5):
        logits = models("lm", 3, 4, 3000, seed=step)
        got = fused_step(*logits, seed=5, position=step, **options)
        assert len(call_cache._calls) == 1
        assert torch.equal(got, fused_step(*logits, seed=5, position=step, backend="reference", **options))


def test_what_differs_is_checked_again():
    logits = models("lm", 3, 4, 300)
    where = {"seed": 1, "position": 0}
    fused_step(*logits, top_k=50, **where)
    with pytest.raises(TypeError, match="top_k"):
        fused_step(*logits, top_k=50.0, **where)
    with pytest.raises(ValueError, match="base: expected 4 rows"):
        fused_step(*logits[:2], logits[2][:3], top_k=50, **where)
    with pytest.raises(ValueError, match="contiguous"):
        fused_step(*logits[:2], logits[2].T.contiguous().T, top_k=50, **where)
    with pytest.raises(TypeError, match="float64"):
        fused_step(*logits[:2], logits[2].double(), top_k=50, **where)
    with pytest.raises(ValueError, match="position"):
        fused_step(*logits, top_k=50, seed=1)
    with pytest.raises(ValueError, match="position"):
        fused_step(*logits, top_k=50, seed=1, position=-1)
    with pytest.raises(ValueError, match="out"):
        fused_step(*logits, top_k=50, out=torch.zeros(3, dtype=torch.int64), **where)


def test_tensors_and_details_take_the_long_way():
    logits = models("lm", 3, 2, 300)
    fused_step(*logits, seed=torch.tensor([1, 2]), position=0)
    fused_step(*logits, seed=1, position=0, top_p=torch.tensor([0.5, 0.9]))
    fused_step(*logits, seed=1, position=0, return_details=True)
    fused_step(*logits, seed=1, position=0, backend="reference")
    assert not call_cache._calls


def test_a_missing_seed_is_drawn_alike_both_ways():
    logits = models("flat", 3, 2, 1000)
    torch.manual_seed(3)
    first = [fused_step(*logits, top_p=0.9).tolist() for _ in range(4)]  # the long way once, then the short one
    torch.manual_seed(3)
    again = [fused_step(*logits, top_p=0.9).tolist() for _ in range(4)]
    assert first == again
    state = torch.get_rng_state()
    for _ in range(2):
        fused_step(*logits, temperature=0)
    assert torch.equal(state, torch.get_rng_state())


def test_the_instruction_set_is_read_at_each_call():
    logits = models("lm", 3, 2, 300)
    want = fused_step(*logits, seed=1, position=0)
    native.force_isa("portable")
    try:
        assert torch.equal(fused_step(*logits, seed=1, position=0), want)
    finally:
        native.force_isa("auto")


def test_kept_calls_are_bounded():
    logits = models("lm", 3, 1, 40)
    for k in range(call_cache.MAX_CACHED_CALLS + 50):
        fused_step(*logits, seed=1, position=0, top_k=k)
    assert len(call_cache._calls) <= call_cache.MAX_CACHED_CALLS


def test_a_wrong_out_is_wrong_each_time():
    logits = models("lm", 3, 4, 300)
    for wrong in (torch.zeros(3, dtype=torch.int64), [1], "abc", torch.zeros(4)):
        for _ in range(2):
            with pytest.raises(ValueError, match="out: expected"):
                fused_step(*logits, seed=1, position=0, out=wrong)


def test_a_default_device_changes_nothing():
    logits = models("lm", 3, 4, 300)
    want = fused_step(*logits, seed=1, position=0)
    torch.manual_seed(1)
    unseeded = fused_step(*logits)
    with torch.device("meta"):
        for _ in range(2):
            assert torch.equal(fused_step(*logits, seed=1, position=0), want)
        torch.manual_seed(1)
        assert torch.equal(fused_step(*logits), unseeded)
