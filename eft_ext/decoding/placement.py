"""The device of a step: what runs on it, and what is brought to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

Parallel = Callable[[Sequence[partial[Tensor]]], list[Tensor]]  # of each model's or joint pass's `run`


def one_after_another(works: Sequence[partial[Tensor]]) -> list[Tensor]:
    """Runs works that do not depend on each other."""
    return [work() for work in works]


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a CUDA device the current one, which streams, events and graphs go by."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def together(logits: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The logits on one device, in a type that the fused step takes."""
    return [(x.float() if x.dtype == torch.float64 else x).to(device, non_blocking=True) for x in logits]
