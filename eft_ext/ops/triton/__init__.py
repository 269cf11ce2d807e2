"""The step, verification and scoring in Triton, each read top down from its `launch.py`;
docs/internals/triton-step.md and docs/internals/score.md draw the pictures."""

from eft_ext.ops.triton.score.launch import score
from eft_ext.ops.triton.step.launch import combine, step
from eft_ext.ops.triton.verify.launch import verify

__all__ = ["combine", "score", "step", "verify"]
