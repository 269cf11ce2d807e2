"""Calls that hypothesis makes up: every instruction set equals the reference bit for bit (numerics.md §14).

EFT_FUZZ_SECONDS=600 pytest python_tests/ops/test_fuzz.py -s searches that long with fresh examples.
"""

from __future__ import annotations

import pytest
import torch

from eft_ext.ops import combine
from eft_ext.ops.backends import native
from python_tests.helpers.fuzzing import SECONDS, made_up, search
from python_tests.helpers.slow_params import slowly
from python_tests.helpers.step_problems import Problem, large_problems, problems

EXACT = ("tokens", "num_kept", "top_ids", "status")


def instruction_sets() -> list[str]:
    return list(native.ISA)[1 : 1 + native._native.cpu_best_isa()]


def check(problem: Problem) -> None:
    """Integers bit for bit; floats are the reference's to 1e-5, or are alike infinite or NaN."""
    want = problem.run("reference")
    z = mixed(problem, "reference")
    for isa in instruction_sets():
        native.force_isa(isa)
        try:
            got = problem.run("cpu")
            own_z = mixed(problem, "cpu")
        finally:
            native.force_isa("auto")
        for name in EXACT:
            x, y = getattr(got, name), getattr(want, name)
            assert torch.equal(x, y), f"{isa}: {name} {x.tolist()} is not {y.tolist()}"
        if z is not None:
            assert torch.equal(torch.nan_to_num(own_z, nan=12345.0), torch.nan_to_num(z, nan=12345.0)), f"{isa}: z"
        for name in ("logprobs", "raw_logprobs", "model_logprobs", "entropy", "top_logprobs"):
            x, y = getattr(got, name), getattr(want, name)
            close = (x == y) | (x.isnan() & y.isnan()) | ((x - y).abs() <= 1e-4 + 1e-5 * y.abs())
            assert close.all(), f"{isa}: {name} {x[~close].tolist()} is not {y[~close].tolist()}"


def mixed(problem: Problem, backend: str) -> torch.Tensor | None:
    """The mixture's logits, where `combine` takes the call's form."""
    if problem.conservative:
        return None
    extras = {k: problem.options[k] for k in ("bias", "token_bitmask", "vocab_size") if k in problem.options}
    return combine(problem.logits, problem.weights, backend=backend, **extras)


@pytest.mark.skipif(SECONDS > 0, reason="the long search runs instead")
@pytest.mark.parametrize("examples", [80, *slowly(320)])
def test_made_up_calls(examples: int) -> None:
    made_up(check, problems(), examples)


@pytest.mark.skipif(SECONDS > 0, reason="the long search runs instead")
@pytest.mark.parametrize("examples", [12, *slowly(48)])
def test_made_up_rows_of_large_vocabularies(examples: int) -> None:
    made_up(check, large_problems(), examples)


@pytest.mark.skipif(not SECONDS, reason="EFT_FUZZ_SECONDS is not set")
def test_search() -> None:
    """Rounds of fresh examples until the time is up; the first finding ends it, with the seed that led there."""
    search(check, ((problems(), 500), (large_problems(), 50)), SECONDS)
