"""The mixture of the inner models' logits, each row with its own parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from eft_ext.methods import MixingMethod


def of_rows(method: MixingMethod, parameters: Tensor) -> MixingMethod:
    """The method with a tensor [B] for each parameter.

    Args:
        parameters: fp32 [B, P], in the order of `method.parameters`.
    """
    columns = dict(zip(method.parameters, parameters.unbind(-1), strict=True))
    found: MixingMethod = method.mapped(lambda name, _: columns[name])
    return found


def as_columns(parameters: Tensor, dtype: torch.dtype) -> Tensor:
    """fp32 [T, P] as columns [T, C] of another type, bit for bit, to travel beside hidden states."""
    return parameters.view(dtype)


def num_columns(count: int, dtype: torch.dtype) -> int:
    """C of `as_columns`."""
    return count * torch.float32.itemsize // dtype.itemsize


def from_columns(columns: Tensor) -> Tensor:
    """The inverse of `as_columns`."""
    return columns.contiguous().view(torch.float32)
