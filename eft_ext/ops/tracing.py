"""The choice between an operator of `torch.library` and the binding: only recorded calls need the operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_UNTRACED_TYPES = frozenset((Tensor, torch.nn.Parameter))


def needs_operator(tensors: Sequence[Tensor]) -> bool:
    """True where the call must appear as an operator: under tracing, dispatch modes, or with tensor subclasses.

    The tensors are on one device.
    """
    return is_tracing() or tensors[0].is_meta or not _UNTRACED_TYPES.issuperset(map(type, tensors))


def is_tracing() -> bool:
    """True while operators are recorded or transformed: by torch.compile, a dispatch mode or `torch.func`.

    Raises RuntimeError under `torch.jit.trace`.
    """
    if _is_transformed():
        return True
    if torch._C._is_tracing():  # what torch.jit.is_tracing asks, at half its cost
        raise RuntimeError("torch.jit.trace cannot record this call; use torch.compile or torch.export")
    return False


def is_recorded() -> bool:
    """`is_tracing` for operators that `torch.jit.trace` may record too."""
    return _is_transformed() or torch._C._is_tracing()


def _is_transformed() -> bool:
    return (
        torch.compiler.is_dynamo_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
