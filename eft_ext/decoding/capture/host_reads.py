"""Finds out whether something reads a tensor's value on the host: what neither a graph nor a trace can contain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Their results, or the shapes of their results, depend on values; under CUDA each of them waits for the device.
_OPERATORS = frozenset(
    [
        "_local_scalar_dense",
        "item",
        "is_nonzero",
        "equal",
        "allclose",
        "nonzero",
        "argwhere",
        "masked_select",
        "bincount",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
        "unique",
        "histogramdd",
        "tensor_split",
    ]
)
_METHODS = frozenset((torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.cpu))


class HostReads:
    """A context that collects the names of such operators.

        with HostReads() as reads:
            model(ids)
        reads.found  # ["_local_scalar_dense"]

    Args:
        forbid: raise RuntimeError at the first one instead.
    """

    def __init__(self, *, forbid: bool = False) -> None:
        self.found: list[str] = []
        self._modes = (_Dispatch(self._note), _Function(self._note))
        self._forbid = forbid

    def _note(self, name: str) -> None:
        self.found.append(name)
        if self._forbid:
            raise RuntimeError(f"{name}: reads a value on the host")

    def __enter__(self) -> HostReads:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*raised)


class _Dispatch(TorchDispatchMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bool
            for x in (args[1] if isinstance(args[1], list) else ())
        )
        # Without `output_size` the length of the result is a sum of values, unless one number says how often.
        one = func._overloadname == "self_int"
        by_counts = name == "repeat_interleave" and not one and not (kwargs or {}).get("output_size")
        if name in _OPERATORS or by_mask or by_counts:
            self._note(name)
        return func(*args, **(kwargs or {}))


class _Function(TorchFunctionMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Sequence[Any], args: Any = (), kwargs: Any = None) -> Any:
        if func in _METHODS:
            self._note(func.__name__)
        return func(*args, **(kwargs or {}))
