"""Scoring on adversarial calls: every instruction set against the float64 reference.

EFT_FUZZ_SECONDS=600 pytest python_tests/ops/test_score_fuzz.py searches about that long.
"""

import os

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eft_ext import fused_score, fused_score_mix
from eft_ext.ops import force_isa
from python_tests.ops.problems import problems

SECONDS = float(os.environ.get("EFT_FUZZ_SECONDS", 0))
EXAMPLES = int(SECONDS * 20) or 150


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


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(problems(), st.sampled_from(("portable", "avx2", "avx512")), st.integers(0, 2**16), st.integers(0, 3))
def test_made_up_calls(problem, isa, seed, listed):
    batch, size = problem.logits[0].shape[0], problem.options["vocab_size"]
    targets = torch.randint(-2, size + 1, (batch,), generator=torch.Generator().manual_seed(seed))
    force_isa(isa)
    try:
        got = run(problem, targets, "cpu", num_top=listed, num_changed=listed, ignore_index=-2)
    except NotImplementedError:
        return
    finally:
        force_isa("auto")
    want = run(problem, targets, "reference", num_top=listed, num_changed=listed, ignore_index=-2)
    assert_like_the_reference(got, want)
