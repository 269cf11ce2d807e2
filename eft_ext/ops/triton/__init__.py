"""The step, verification and scoring in Triton, read top down from `launch.py`, `verify_launch.py`, `score_launch.py`;
docs/triton-step.md and docs/score.md draw the pictures."""

from eft_ext.ops.triton.launch import combine, step
from eft_ext.ops.triton.score_launch import score
from eft_ext.ops.triton.verify_launch import verify

__all__ = ["combine", "score", "step", "verify"]
