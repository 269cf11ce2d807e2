"""The step in Triton: two launches, read top down from `launch.py`; docs/triton-step.md draws the picture."""

from eft_ext.ops.triton.launch import combine, step

__all__ = ["combine", "step"]
