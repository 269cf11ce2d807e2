"""A model's modules and tensors without their names: making those takes `modules()` five times as long, and every
generation looks several times."""

from __future__ import annotations

from typing import Any

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
    """As `model.parameters()`; shared ones as often as they stand there."""
    return [p for module in modules_of(model) for p in module._parameters.values() if p is not None]


def buffers_of(model: nn.Module) -> list[Tensor]:
    """As `model.buffers()`."""
    return [x for module in modules_of(model) for x in module._buffers.values() if x is not None]
