"""The contents of a graph of the stand-in: torch's operators on a tape, and the launches that come between them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.host_reads import HostReads
from python_tests.standin import runtime

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))
from tape import Recorder


class Capture(Recorder):
    """Remembers what its operators write, and how many launches came before each."""

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
            out.zero_()  # for what indexes with a launch's result, which is not there yet
        return out

    def later(self, work: Callable[[], object]) -> None:
        """Puts `work` into the replay, like an operator."""
        self._launched.append(runtime.size(self._graph))
        self.operators.append((work, (), {}, []))

    def begin(self) -> None:
        Capture.current = self
        runtime.capture_into(self._graph)
        self._reads.__enter__()
        self.__enter__()

    def end(self) -> None:
        """A capture computes nothing: what was written is put back."""
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
    """Runs it as a device would: now, or in each replay of what is captured; torch's functions see nothing of it."""

    def alone() -> None:
        with torch._C.DisableTorchFunction(), torch.no_grad():
            work()

    if Capture.current is None:
        alone()
    else:
        Capture.current.later(alone)
