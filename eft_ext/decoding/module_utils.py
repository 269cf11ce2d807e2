"""A model's modules and tensors without their names: making those takes `modules()` five times as long, and every
generation looks several times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def modules_of(model: nn.Module) -> list[Any]:
    """Every module once, as `model.modules()`, in another order."""
    found: dict[int, nn.Module] = {}
    left: list[nn.Module] = [model]
    while left:
        module = left.pop()
        if id(module) not in found:
            found[id(module)] = module
            left += [child for child in module._modules.values() if child is not None]
    return list(found.values())


def parameters_of(model: nn.Module) -> list[Tensor]:
    """Returns `model.parameters()` as a list; shared ones as often as they stand there."""
    return [p for module in modules_of(model) for p in module._parameters.values() if p is not None]


def autocast_of(model: nn.Module) -> torch.dtype | None:
    """The type that autocast computes in where the model is, None where it is off."""
    kind = next((p.device.type for p in parameters_of(model)), "cpu")
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def hooks_of(model: nn.Module) -> str | None:
    """That a module calls Python beside its forward pass, the end of a sentence; None where none does."""
    for module in modules_of(model):
        if module._forward_hooks or module._forward_pre_hooks or "_hf_hook" in vars(module):
            return f"has hooks ({type(module).__name__})"
    return None


def buffers_of(model: nn.Module) -> list[Tensor]:
    """Returns `model.buffers()` as a list."""
    return [x for module in modules_of(model) for x in module._buffers.values() if x is not None]
