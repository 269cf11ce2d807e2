"""Golden vectors: every backend draws the tokens that python_tests/golden/step.json states."""

import json

import pytest
import torch

from eft_ext import backends
from eft_ext.ops.backends import native
from python_tests.golden.make import PATH, call, checksum, logits_of

PROBLEMS = json.loads(PATH.read_text())
ISAS = list(native.ISA)[1 : 1 + native._native.cpu_best_isa()]


def described(problem):
    return {k: v for k, v in problem.items() if k != "expected"}


def assert_expected(found, problem):
    for name, want in problem["expected"].items():
        assert getattr(found, name).tolist() == want, f"{name} of {described(problem)}"


def test_the_inputs_are_the_ones_the_file_was_made_from():
    for problem in PROBLEMS:
        assert checksum(logits_of(problem)) == problem["crc32"], described(problem)


@pytest.mark.parametrize("isa", ISAS)
def test_cpu(isa):
    native.force_isa(isa)
    try:
        for problem in PROBLEMS:
            assert_expected(call(problem, backend="cpu"), problem)
    finally:
        native.force_isa("auto")


@pytest.mark.slow
def test_reference():
    for problem in PROBLEMS:
        assert_expected(call(problem, backend="reference"), problem)


@pytest.mark.gpu
@pytest.mark.parametrize("part", range(8))  # Triton compiles for minutes, which workers share
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_gpu(backend, part):
    found = backends()[backend]
    if not found.available:
        pytest.skip(found.reason)
    compared = 0
    for problem in PROBLEMS[part::8]:
        want = problem["expected"]["tokens"]
        try:
            tokens = call(problem, "cuda", return_details=False, backend=backend)
        except NotImplementedError:  # a backend that has no more than a part of the step
            continue
        assert tokens.tolist() == want, described(problem)
        compared += 1
        try:
            details = call(problem, "cuda", backend=backend)
        except NotImplementedError:
            continue
        assert_expected(details, problem)
    assert compared > 0
    torch.cuda.synchronize()
