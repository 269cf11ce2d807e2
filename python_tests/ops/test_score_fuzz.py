"""Scoring on adversarial calls: every instruction set against the float64 reference.

EFT_FUZZ_SECONDS=600 pytest python_tests/ops/test_score_fuzz.py -s searches that long with fresh examples.
"""

import pytest
import torch
from hypothesis import strategies as st

from eft_ext import fused_score, fused_score_mix
from eft_ext.ops import force_isa
from python_tests.helpers.fuzzing import SECONDS, made_up, search
from python_tests.helpers.slow_params import slowly
from python_tests.helpers.step_problems import problems
from python_tests.ops.test_fuzz import instruction_sets


def run(problem, targets, backend, **options):
    size = problem.options["vocab_size"]
    if problem.conservative:
        return fused_score(
            *problem.logits, targets, **problem.conservative, **options, vocab_size=size, backend=backend
        )
    return fused_score_mix(problem.logits, problem.weights, targets, **options, vocab_size=size, backend=backend)


def assert_like_the_reference(got, want):
    assert torch.equal(got.status, want.status)
    for name in ("argmax", "rank", "top_ids"):
        assert torch.equal(getattr(got, name), getattr(want, name)), name
    for name in ("lse", "logprobs", "entropy", "max_prob", "log1m_max", "sum_squares", "top_logprobs", "tv", "kl"):
        a, b = getattr(got, name).double(), getattr(want, name).double()
        torch.testing.assert_close(a, b, rtol=3e-6, atol=1e-6, equal_nan=True)


def check(case) -> None:
    problem, seed, listed = case
    batch, size = problem.logits[0].shape[0], problem.options["vocab_size"]
    targets = torch.randint(-2, size + 1, (batch,), generator=torch.Generator().manual_seed(seed))
    options = {"num_top": listed, "num_changed": listed, "ignore_index": -2}
    want = run(problem, targets, "reference", **options)
    for isa in instruction_sets():
        force_isa(isa)
        try:
            got = run(problem, targets, "cpu", **options)
        finally:
            force_isa("auto")
        assert_like_the_reference(got, want)


MADE_UP = st.tuples(problems(), st.integers(0, 2**16), st.integers(0, 3))


@pytest.mark.skipif(SECONDS > 0, reason="the long search runs instead")
@pytest.mark.parametrize("examples", [30, *slowly(120)])
def test_made_up_calls(examples):
    made_up(check, MADE_UP, examples)


@pytest.mark.skipif(not SECONDS, reason="EFT_FUZZ_SECONDS is not set")
def test_search():
    search(check, [(MADE_UP, 200)], SECONDS)
