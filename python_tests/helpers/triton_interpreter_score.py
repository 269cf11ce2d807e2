"""Calls of scoring in Triton, made by the process that interprets them (interpreter.py)."""

from __future__ import annotations

from typing import Any

import torch


def exponentials(x: torch.Tensor) -> Any:
    from python_tests.helpers import device_functions

    return device_functions.exponentials(x)


def scored(
    logits: Any, weights: Any, targets: torch.Tensor, options: dict[str, Any], sizes: tuple[int, ...] | None = None
) -> Any:
    """`fused_score_mix` on Triton; `sizes` overrides how the work is cut."""
    from eft_ext.ops import fused_score_mix
    from eft_ext.ops.triton.common.launch_sizes import LaunchSizes
    from eft_ext.ops.triton.score import launch as score_launch

    table = score_launch.sizes_for
    if sizes is not None:
        score_launch.sizes_for = lambda vocab_size, batch: LaunchSizes(*sizes)
    try:
        return fused_score_mix(logits, weights, targets, backend="triton", **options)
    finally:
        score_launch.sizes_for = table


def scored_by_pieces(logits: Any, weights: Any, targets: torch.Tensor, rows: int) -> Any:
    """The same, so many rows at once."""
    from eft_ext.ops.triton.score import launch as score_launch

    before, score_launch.ROWS = score_launch.ROWS, rows
    try:
        return scored(logits, weights, targets, {"compared": 1})
    finally:
        score_launch.ROWS = before


def scored_problem(problem: Any, targets: torch.Tensor, options: dict[str, Any]) -> Any:
    """A problem's logits and weights, scored."""
    from python_tests.ops.test_score_fuzz import run

    return run(problem, targets, "triton", **options)


def checked_scoring() -> str:
    """`torch.library.opcheck` of scoring with backend="triton"."""
    from eft_ext.ops.backends.flat_params import flatten
    from eft_ext.ops.check_params import given_weights, logits_names, mix_params
    from python_tests.helpers.rows import models as rows

    logits = rows("lm", 3, 3, 300)
    weights = given_weights([1.0, torch.ones(3), -1.0], logits)
    mix = mix_params(logits_names(logits), logits, weights, None, None, None, None)
    targets = torch.tensor([1, -100, 299])
    torch.library.opcheck(torch.ops.eft_ext.score.default, (*flatten(mix), targets, -100, 1, 3, 2, "triton"))
    return "passed"
