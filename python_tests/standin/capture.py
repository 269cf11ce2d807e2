"""A graph of the stand-in: torch's operators in order, and the launches of libeft between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.capture.host_reads import HostReads
from python_tests.helpers.fake_cuda_graph import OperatorRecorder
from python_tests.standin import runtime


class Capture(OperatorRecorder):
    """Records operators, the values that they overwrite, and the number of launches before each operator."""

    current: Capture | None = None

    def __init__(self, graph: int) -> None:
        super().__init__()
        self._graph, self._reads = graph, HostReads(forbid=True)
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._launched: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: Any = (), kwargs: Any = None) -> Any:
        for argument, value in zip(func._schema.arguments, args, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(value, Tensor) and value.numel() and value.data_ptr() not in self._before:
                self._before[value.data_ptr()] = (value, value.clone())
        self._launched.append(runtime.size(self._graph))
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if "empty" in func.overloadpacket.__name__:
            out.zero_()  # operators may index with a launch's result, which is not there in a capture
        return out

    def later(self, work: Callable[[], object]) -> None:
        """Adds a function to the replay, in order with the operators."""
        self._launched.append(runtime.size(self._graph))
        self.operators.append((work, (), {}, []))

    def begin(self) -> None:
        Capture.current = self
        runtime.capture_into(self._graph)
        self._reads.__enter__()
        self.__enter__()

    def end(self) -> None:
        """Ends the capture and restores what was written: a capture computes nothing."""
        Capture.current = None
        self.__exit__(None, None, None)
        self._reads.__exit__(None, None, None)
        runtime.capture_into(0)
        for value, before in self._before.values():
            value.copy_(before)
        self._before.clear()

    def replay(self) -> None:
        done = 0
        for operator, launched in zip(self.operators, self._launched, strict=True):
            runtime.run(self._graph, done, launched)
            done = launched
            self.run_again(operator)
        runtime.run(self._graph, done, runtime.size(self._graph))


def launch(work: Callable[[], object]) -> None:
    """Runs `work` now, or in each replay of the current capture; modes of torch do not see its functions."""

    def alone() -> None:
        with torch._C.DisableTorchFunction(), torch.no_grad():
            work()

    if Capture.current is None:
        alone()
    else:
        Capture.current.later(alone)
