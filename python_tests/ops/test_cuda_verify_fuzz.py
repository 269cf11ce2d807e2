"""Verifications that hypothesis makes up, on the CUDA kernels run thread by thread: the CPU's decisions, and no races.

EFT_FUZZ_SECONDS=600 pytest python_tests/ops/test_cuda_verify_fuzz.py -s searches that long.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import Phase, given, settings

from python_tests.helpers.drafts import same
from python_tests.helpers.fuzzing import COMMON, SECONDS, search
from python_tests.helpers.host_cuda import HostCuda, Launch, library
from python_tests.helpers.verify_problems import VerifyProblem, long_verify_problems, verify_problems
from python_tests.ops.test_cuda_verify_host import launches

pytestmark = pytest.mark.slow


def decide(host: HostCuda, problem: VerifyProblem, launch: Launch) -> None:
    want = problem.run("cpu")
    host.launch = launch
    with host.installed():
        got = problem.run("cpu")
    assert same(got, want), f"{launch}: {[x.tolist() for x in got]} is not {[x.tolist() for x in want]}"


ORDERS = launches(10_000)
EXAMPLES = {"derandomize": True, "phases": (Phase.explicit, Phase.generate, Phase.shrink), **COMMON}


@pytest.mark.skipif(SECONDS > 0, reason="the long search runs instead")
@settings(max_examples=120, **EXAMPLES)
@given(problem=verify_problems())
def test_made_up_calls(problem: VerifyProblem) -> None:
    decide(library(), problem, next(ORDERS))


@pytest.mark.skipif(SECONDS > 0, reason="the long search runs instead")
@settings(max_examples=8, **EXAMPLES)
@given(problem=long_verify_problems())
def test_made_up_rows_of_large_vocabularies(problem: VerifyProblem) -> None:
    decide(library(), problem, next(ORDERS))


@pytest.mark.skipif(SECONDS > 0, reason="the long search runs instead")
@settings(max_examples=25, **EXAMPLES)
@given(problem=verify_problems())
def test_shared_and_global_memory_without_races(problem: VerifyProblem) -> None:
    host = library("hostcuda_races")
    assert host.detects_races
    decide(host, problem, next(ORDERS))


@pytest.mark.skipif(not SECONDS, reason="EFT_FUZZ_SECONDS is not set")
@pytest.mark.parametrize("name", ["hostcuda", "hostcuda_races"])
def test_search(name: str) -> None:
    """Rounds of fresh examples and orders until the time is up, half of it on each build."""
    orders = launches(random.SystemRandom().randrange(2**40))
    made = ((verify_problems(), 100), (long_verify_problems(), 3))
    search(lambda problem: decide(library(name), problem, next(orders)), made, SECONDS / 2)
