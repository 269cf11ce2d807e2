"""The step and verification in Triton, read top down from `launch.py` and `verify_launch.py`; docs/triton-step.md draws
the picture."""

from eft_ext.ops.triton.launch import combine, step
from eft_ext.ops.triton.verify_launch import verify

__all__ = ["combine", "step", "verify"]
