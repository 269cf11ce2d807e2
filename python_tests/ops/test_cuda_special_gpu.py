"""Tokens that the models do not share, on a device: the reference's results, for every operation (make gpu-test).

Tests named `small` are the reduced set that make gpu-test also runs under compute-sanitizer.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from eft_ext.ops import combine, fused_mix, fused_score_mix, fused_step, fused_verify
from python_tests.helpers.on_device import moved
from python_tests.helpers.special_problems import SpecialProblem, problems
from python_tests.ops.test_cuda_gpu import assert_same
from python_tests.ops.test_score_fuzz import assert_like_the_reference

pytestmark = pytest.mark.gpu
PROBLEMS = {f"{p.name} {size}": p for size in (2500, 32000) for p in problems(size)}
SMALL = {p.name: p for p in problems() if p.name in ("near torch.bfloat16", "strange", "bitmask")}


def placed(value: Any) -> Any:
    """On the device, what is a tensor."""
    if isinstance(value, list):
        return [placed(x) for x in value]
    return type(value)(*map(placed, value)) if hasattr(value, "_fields") else moved(value)


def on_both(function: Any, *call: Any, **options: Any) -> tuple[Any, Any]:
    """The device's result, there, and the reference's."""
    there = {name: placed(value) for name, value in options.items() if name != "special_tokens"}
    if "special_tokens" in options:
        there["special_tokens"] = options["special_tokens"]
    return function(*placed(list(call)), backend="cuda", **there), function(*call, backend="reference", **options)


def check(problem: SpecialProblem) -> None:
    logits, weights, rows = problem.logits, problem.weights, len(problem.logits[0])
    mixed = {"special_tokens": problem.special}
    options = {**mixed, "seed": 11, "position": 5, **problem.options}
    got, want = on_both(fused_mix, logits, weights, return_details=True, top_logprobs=6, **options)
    assert_same(got, want, problem.name)
    taken = {name: problem.options[name] for name in ("bias", "token_bitmask") if name in problem.options}
    z, expected = on_both(combine, logits, weights, **mixed, **taken)
    assert torch.equal(z.cpu().nan_to_num(nan=7e30), expected.nan_to_num(nan=7e30)), problem.name
    targets = torch.tensor([*problem.special.own, *problem.special.never, 20, 1030, 21, 22])[:rows]
    got, want = on_both(fused_score_mix, logits, weights, targets, num_top=4, num_changed=3, **mixed)
    assert_like_the_reference(type(got)(*(x.cpu() for x in got)), want)
    steps = [torch.stack([x, x.roll(1, 0), x.roll(2, 0)], dim=1) for x in logits]
    q = steps[min(1, len(steps) - 1)][:, :2]
    drafts = torch.stack([fused_mix([q[:, i]], [1.0], seed=11, position=5 + i) for i in range(2)], dim=1).clamp(min=0)
    got, want = on_both(fused_verify, drafts, q, steps, weights, **options)
    for x, y in zip(got, want, strict=True):
        assert torch.equal(x.cpu(), y), problem.name
    if len(logits) != 3:
        return
    for outside in ("keep", "drop"):
        conservative = {"scale": 1.5, "conservative_top_p": 0.8, "conservative_outside": outside}
        got, want = on_both(fused_step, *logits, return_details=True, **conservative, **options)
        assert_same(got, want, f"{problem.name}, {outside}")


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_operation(name: str) -> None:
    check(PROBLEMS[name])


@pytest.mark.parametrize("name", SMALL)
def test_small(name: str) -> None:
    check(SMALL[name])
