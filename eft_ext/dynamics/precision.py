"""Models in fp64 that stay in fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_NARROWING = (Tensor.float, Tensor.half, Tensor.bfloat16)
_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_PRODUCTS = (Tensor.matmul, Tensor.__matmul__, torch.matmul)  # the only operators here that do not promote


class KeepDouble(TorchFunctionMode):
    """Inside it, an fp64 tensor is never made narrower.

    Llama's RMSNorm and every model's eager attention compute in fp32 whatever the dtype of the model, since that is
    wider than bf16. In a model of fp64 that rounding, 1e-7 relative, hides the second order of a small step. Where a
    frequency stays wide, the positions that it is multiplied with are widened too (as transformers 5.17 needs it).
    The grouped product of mixtures of experts, which torch has for narrower types alone, is computed group by group.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS and any(x.dtype == torch.float64 for x in args):
            return func(*(x.double() for x in args), **kwargs)
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func in _NARROWING:
                return args[0]
            if func is torch._grouped_mm:
                return _grouped_product(*args, **kwargs)
            args = [_wide(x) for x in args]
            kwargs = {name: _wide(x) for name, x in kwargs.items()}
        return func(*args, **kwargs)


def _grouped_product(x: Tensor, weights: Tensor, offs: Tensor, **_: Any) -> Tensor:
    """Rows of x [rows, width] times their group's matrix of weights [groups, width, out]; `offs` ends each group."""
    groups = x.tensor_split(offs[:-1].tolist())
    return torch.cat([rows @ weight for rows, weight in zip(groups, weights, strict=True)])


def _wide(x: Any) -> Any:
    return torch.float64 if isinstance(x, torch.dtype) and x in _NARROW else x
