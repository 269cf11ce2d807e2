"""The Triton step in Triton's interpreter: the CPU step's tokens, bit for bit.

EFT_FUZZ_SECONDS=600 pytest python_tests/ops/test_triton_interpreted.py -s takes all golden vectors and searches that
long with fresh examples.
"""

from __future__ import annotations

import itertools
import json
import os
import time

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from eft_ext.ops import combine
from python_tests.golden.make import PATH
from python_tests.helpers import triton_interpreter as child
from python_tests.helpers.rows import ROWS, STEP_OPTIONS, models
from python_tests.helpers.slow_params import slowly, slowly_but
from python_tests.helpers.step_problems import Problem, problems

SECONDS = float(os.environ.get("EFT_FUZZ_SECONDS", "0"))
GOLDEN = json.loads(PATH.read_text())
COMMON = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
        HealthCheck.function_scoped_fixture,
    ],
}
EXACT = ("tokens", "num_kept", "top_ids", "status")
KINDS = slowly_but(("lm", "masked", "nan"), ROWS)


def assert_same(got, want, context):
    """Integers bit for bit; floats are the CPU's to 1e-5 relative, or are alike infinite or NaN."""
    for name, x, y in zip(got._fields, got, want, strict=True):
        if name in EXACT:
            assert torch.equal(x, y), f"{context}: {name} {x.tolist()} is not {y.tolist()}"
            continue
        close = (x == y) | (x.isnan() & y.isnan()) | ((x - y).abs() <= 1e-5 + 1e-5 * y.abs())
        assert close.all(), f"{context}: {name} {x[~close].tolist()} is not {y[~close].tolist()}"


def same(interpreter, problem: Problem, sizes=None) -> None:
    assert_same(interpreter.call(child.made_up, problem, sizes), problem.run("cpu"), problem)


def problem(rows="lm", vocab=2500, dtype=torch.float32, batch=1, count=3, **options) -> Problem:
    weights = [1.0, 1.0, -1.0, 0.5][:count]
    return Problem(models(rows, count, batch, vocab, dtype), weights, {"seed": 11, "position": 5, **options})


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
def test_golden(interpreter, large):
    """Vocabularies of a few tokens, or of up to 5000."""
    chosen = [p for p in GOLDEN if p["vocab"] <= 5000] if not SECONDS else GOLDEN
    chosen = chosen if SECONDS else [p for i, p in enumerate(chosen) if i % 11 == 0 and p["batch"] < 40]
    chosen = [p for p in chosen if (p["vocab"] > 1024) == large]
    assert len(chosen) > 6
    for found, want in zip(interpreter.call(child.golden, chosen), chosen, strict=True):
        for name, value in want["expected"].items():
            assert getattr(found, name).tolist() == value, f"{name} of {want}"


@pytest.mark.parametrize("rows", KINDS)
def test_every_kind_of_row(interpreter, rows):
    options = list(STEP_OPTIONS.values())[list(ROWS).index(rows)]  # another set for every kind
    same(interpreter, problem(rows, 1500, torch.bfloat16, batch=2, **options))
    same(interpreter, problem(rows, 1500, top_p=0.9, temperature=0.7))


@pytest.mark.slow
def test_every_set_of_options(interpreter):
    for options in STEP_OPTIONS.values():
        same(interpreter, problem("lm", 700, torch.float16, **options))


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["flat", "bf16_ties", "cliffs"])
def test_no_cut_of_the_work_changes_a_token(interpreter, rows):
    given_ = problem(rows, 2500, torch.bfloat16, top_k=2000, top_p=0.97, min_p=1e-4, top_logprobs=3)
    # tiles, slots, group, warps: candidate lists too short to be of use, tiles read again one by one and in fours.
    for sizes in ((1, 4, 1, 4, 4), (3, 16, 4, 4, 4)):
        same(interpreter, given_, sizes)


@pytest.mark.slow
def test_a_real_vocabulary(interpreter):
    same(interpreter, problem("lm", 32000, torch.bfloat16, top_p=0.9, temperature=0.7))


@pytest.mark.parametrize(
    ("defining", "outside"),
    [
        pytest.param(defining, outside, marks=() if (defining, outside) == ("tuned", "drop") else pytest.mark.slow)
        for defining, outside in itertools.product(("large", "tuned", "base"), ("keep", "drop"))
    ],
)
def test_conservative(interpreter, defining, outside):
    for rows, nucleus in (("bf16_ties", 0.6), ("nan", 0.9)) if outside == "keep" else (("lm", 0.9), ("wide", 1.0)):
        given_ = problem(rows, 1100, batch=2, top_p=0.95)
        given_.conservative = {
            "scale": 1.5,
            "conservative_top_p": nucleus,
            "conservative_set": defining,
            "conservative_outside": outside,
        }
        same(interpreter, given_)


def test_bias_bitmask_strides_and_other_dtypes(interpreter):
    generator = torch.Generator().manual_seed(1)
    bias = torch.randn(1111, generator=generator)
    token_bitmask = torch.randint(-(2**31), 2**31, (2, 40), dtype=torch.int32, generator=generator)[:, :35]
    large, tuned, base = models("lm", 3, 2, 1200, torch.float32)
    logits = [large.bfloat16(), tuned.half()[:, :1111], base[:, 1:1150]]
    for extras in ({"bias": bias}, {"bias": bias.expand(2, -1).contiguous(), "token_bitmask": token_bitmask}):
        same(interpreter, Problem(logits, [1.0, 0.7, -0.7], {"seed": 3, "position": 1, "top_k": 40, **extras}))


def test_every_option_may_differ_from_row_to_row(interpreter):
    rows = {
        "temperature": torch.tensor([0.0, 0.5, 1.0, 2.0, -1.0, 1.0]),
        "top_k": torch.tensor([0, 5, 50, 0, 3, 1]),
        "top_p": torch.tensor([1.0, 0.9, 0.5, 0.95, 1.0, 0.0]),
        "min_p": torch.tensor([0.0, 0.0, 0.05, 0.01, 0.5, 0.0]),
        "seed": torch.tensor([1, 2, -3, 2**62, 5, 6]),
        "position": torch.tensor([0, 1, 2, 2**40, 3, -1]),
    }
    weights = [1.0, torch.tensor([1.0, 0.5, 0.0, 1.5, -1.0, 1.0]), -1.0]
    same(interpreter, Problem(models("lm", 3, 6, 1100), weights, {**rows, "top_logprobs": 2}))


SLOW = slowly("nan", "inf", "huge", "subnormal")


@pytest.mark.parametrize("rows", ["masked", *SLOW])
def test_combine_is_the_cpus_bit_for_bit(interpreter, rows):
    logits = models(rows, 3, 2, 1500, torch.bfloat16)
    options = {"bias": torch.randn(1500, generator=torch.Generator().manual_seed(0))}
    for more in ({}, {"conservative_top_p": 0.9}):
        got = interpreter.call(child.mixed, logits, [1.0, 1.5, -1.5], options | more)
        want = combine(logits, [1.0, 1.5, -1.5], **options, **more)
        same_bits = (got.view(torch.int32) == want.view(torch.int32)) | (got.isnan() & want.isnan())
        assert same_bits.all(), (rows, more)


def test_a_workspace_is_used_or_refused(interpreter):
    given_ = problem(top_p=0.9)
    given_.options["workspace"] = torch.zeros(1 << 16, dtype=torch.uint8)
    same(interpreter, given_)
    given_.options["workspace"] = torch.zeros(16, dtype=torch.float32)
    raised = interpreter.call(child.refused, given_)
    assert raised.startswith("ValueError: workspace: expected a contiguous tensor of at least "), raised


@pytest.mark.slow
@pytest.mark.skipif(SECONDS > 0, reason="the long search runs instead")
@settings(max_examples=8, derandomize=True, phases=(Phase.explicit, Phase.generate), **COMMON)
@given(made_up=problems())
def test_made_up_calls(interpreter, made_up: Problem) -> None:
    made_up.options["top_logprobs"] = min(made_up.options["top_logprobs"], 3)  # each is a tile read again
    same(interpreter, made_up)


@pytest.mark.skipif(not SECONDS, reason="EFT_FUZZ_SECONDS is not set")
def test_search(interpreter) -> None:
    """Rounds of fresh examples until the time is up, every other one with short lists."""
    end, examples = time.monotonic() + SECONDS, itertools.count()

    def counted(made_up: Problem) -> None:
        same(interpreter, made_up, (1, 4, 2, 4, 4) if next(examples) % 2 else None)

    while time.monotonic() < end:
        settings(max_examples=50, **COMMON)(given(problems())(counted))()
    print(f"fuzz: {next(examples)} examples")
