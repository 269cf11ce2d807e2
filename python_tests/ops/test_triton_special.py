"""Tokens that the models do not share, in Triton's interpreter: the reference's, bit for bit (numerics.md §15)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eft_ext.ops import combine, fused_mix, fused_score_mix, fused_verify
from python_tests.helpers import triton_interpreter as child
from python_tests.helpers import triton_interpreter_score as child_of_scores
from python_tests.helpers.slow_params import slowly, slowly_but
from python_tests.helpers.special_problems import SpecialProblem, problems
from python_tests.helpers.step_problems import Problem
from python_tests.ops.test_score import assert_agrees
from python_tests.ops.test_triton_interpreted import assert_same

PROBLEMS = {problem.name: problem for problem in problems(2456)}
DRAW = {"seed": 11, "position": 5}
CONSERVATIVE = {"conservative_top_p": 0.8, "conservative_set": "large"}
DROPPED = {"conservative_top_p": 0.8, "conservative_outside": "drop"}
REWEIGHTED = [CONSERVATIVE, *slowly(DROPPED, {"conservative_top_p": 1.0})]


def options_of(problem: SpecialProblem, *names: str) -> dict[str, Any]:
    """A problem's special tokens, and its options: all, or those of these names."""
    given = {name: x for name, x in problem.options.items() if not names or name in names}
    return {"special_tokens": problem.special, **given}


def same_step(interpreter, problem: Problem, sizes=None) -> None:
    assert_same(interpreter.call(child.made_up, problem, sizes), problem.run("reference"), problem.options)


def same_combined(interpreter, logits, weights, options) -> None:
    got = interpreter.call(child.mixed, logits, weights, options)
    want = combine(logits, weights, backend="reference", **options)
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.nan_to_num(nan=0.0), want.nan_to_num(nan=0.0))


def same_scores(interpreter, logits, weights, targets, options) -> None:
    options = {**options, "num_top": 3, "num_changed": 2}
    got = interpreter.call(child_of_scores.scored, logits, weights, targets, options)
    assert_agrees(got, fused_score_mix(logits, weights, targets, backend="reference", **options))


def same_verified(interpreter, call) -> None:
    want = fused_verify(**call, backend="reference")
    for name, x, y in zip(want._fields, interpreter.call(child.verified, call), want, strict=True):
        assert torch.equal(x, y), f"{name} {x.tolist()} is not {y.tolist()}"


def targets_of(problem: SpecialProblem) -> torch.Tensor:
    """Two special tokens and another one; one row is not scored."""
    return torch.tensor([*(*problem.special.own, *problem.special.never)[:2], 1100, -100])


def verification(problem: SpecialProblem, **more: Any) -> dict[str, Any]:
    """Two positions of each row, drafts drawn from model 1 (of one model: it), or special."""
    logits = [torch.stack([x, x.roll(1, 0)], dim=1) for x in problem.logits]
    draft_logits = logits[min(1, len(logits) - 1)][:, :1].nan_to_num(nan=-4.0, posinf=-4.0)
    drafts = fused_mix([draft_logits[:, 0]], [1.0], **DRAW)[:, None]
    drafts[:2, 0] = torch.tensor((*problem.special.own, *problem.special.never)[:2])
    call = {"drafts": drafts, "draft_logits": draft_logits, "logits": logits, "weights": problem.weights}
    return {**call, **DRAW, **options_of(problem), **more}


@pytest.mark.parametrize("name", slowly_but(("strange", "broken rows", "bias"), PROBLEMS))
def test_steps(interpreter, name):
    problem = PROBLEMS[name]
    given = Problem(problem.logits, problem.weights, {**DRAW, **options_of(problem), "top_logprobs": 4})
    same_step(interpreter, given)


@pytest.mark.slow
def test_no_cut_of_the_work_changes_a_token(interpreter):
    problem = PROBLEMS["near torch.float16"]
    given = Problem(problem.logits, problem.weights, {**DRAW, **options_of(problem), "top_k": 900, "top_logprobs": 4})
    for sizes in ((1, 4, 1, 4, 4), (3, 16, 4, 4, 4)):
        same_step(interpreter, given, sizes)


@pytest.mark.parametrize("name", slowly_but(("strange", "broken rows", "bitmask"), PROBLEMS))
def test_combine(interpreter, name):
    problem = PROBLEMS[name]
    same_combined(interpreter, problem.logits, problem.weights, options_of(problem, "bias", "token_bitmask"))


@pytest.mark.parametrize("name", slowly_but(("one model",), PROBLEMS))
def test_scores(interpreter, name):
    problem = PROBLEMS[name]
    same_scores(
        interpreter, problem.logits, problem.weights, targets_of(problem), options_of(problem, "special_tokens")
    )


@pytest.mark.parametrize("name", slowly_but(("greedy of some",), PROBLEMS))
def test_verifications(interpreter, name):
    same_verified(interpreter, verification(PROBLEMS[name]))


@pytest.mark.parametrize("conservative", REWEIGHTED)
@pytest.mark.parametrize("name", slowly_but(("excluded",), ("near torch.bfloat16", "excluded", "bias")))
def test_conservative_re_weighting(interpreter, name, conservative):
    problem = PROBLEMS[name]
    logits, weights = [x[:2] for x in problem.logits], [1.5, 1.0, -1.5]
    options = {**DRAW, **options_of(problem), "top_logprobs": 2}
    same_step(interpreter, Problem(logits, weights, options, {"scale": 1.5, **conservative}))
    same_combined(interpreter, logits, weights, {**options_of(problem, "bias"), **conservative})


@pytest.mark.slow
@pytest.mark.parametrize("conservative", [CONSERVATIVE, DROPPED])
def test_conservative_verifications_and_scores(interpreter, conservative):
    problem, weights = PROBLEMS["near torch.bfloat16"], [1.5, 1.0, -1.5]
    same_verified(interpreter, verification(problem, weights=weights, **conservative))
    options = {"special_tokens": problem.special, **conservative}
    same_scores(interpreter, problem.logits, weights, targets_of(problem), options)
