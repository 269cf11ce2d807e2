"""The CUDA path without a GPU, from Python to the kernels: the launch code runs on `csrc/emulator/runtime`.

A child process loads that libeft in the place of the package's, so that the Python module, which is the usual one,
finds its `eft_*_cuda` there. Tensors say of themselves that they are on a device, and lie in the host's memory.
"""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from python_tests.helpers.tensor_bytes import from_bytes, to_bytes

H200, A100, B200 = range(3)  # as runtime.h numbers them
STREAM = 0x5EED0
BAND, FILL = 256, 0xA5  # bytes before and after what is allocated, and what they hold


class HostLaunches:
    """`call(function, *args, **kwargs)` in the child: its result, and how many launches it took."""

    def __init__(self, library: Path) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        self._pool.submit(_load, str(library)).result()

    def call(self, function: Callable[..., Any], *args: Any, device: int = H200, **kwargs: Any) -> Any:
        """Raises AssertionError where the runtime was given what a device would not take, or memory beside an
        allocation was written."""
        return self._ask(False, function, args, device, kwargs)

    def replay(self, function: Callable[..., Any], *args: Any, device: int = H200, **kwargs: Any) -> Any:
        """The same, captured and replayed twice; what comes back is of the second time. Before each replay somebody
        else has written into the graph's workspaces."""
        return self._ask(True, function, args, device, kwargs)

    def _ask(self, *asked: Any) -> Any:
        return from_bytes(self._pool.submit(_answer, to_bytes(asked)).result())

    def close(self) -> None:
        self._pool.shutdown()


# ---- the child ------------------------------------------------------------------------------------


class Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("launches", "clusters", "rows", "allocations")]


runtime: Any = None


def _load(library: str) -> None:
    """Before the package is imported: the module looks for a libeft.so, and finds that one is there."""
    global runtime
    torch.set_num_threads(1)
    runtime = ctypes.CDLL(library)
    runtime.eft_runtime_begin.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_int]
    runtime.eft_runtime_faults.restype = ctypes.c_char_p
    runtime.eft_runtime_count.restype = Counts
    from eft_ext.ops.backends import native

    assert native._native.cuda_architectures() == "the host", "another libeft was loaded"


def _answer(asked: bytes) -> bytes:
    captured, function, args, device, kwargs = from_bytes(asked)
    with on_device(device, captured) as memory:
        try:
            result = function(*args, **kwargs)
            for _ in range(2 * captured):  # the second with the tickets that the first one left
                memory.spoil_workspaces()
                runtime.eft_runtime_replay()
        finally:
            faults = memory.faults() + kept.faults() + runtime.eft_runtime_faults().decode()
            assert not faults, faults
    count = runtime.eft_runtime_count()
    return to_bytes((result, SimpleNamespace(**{name: getattr(count, name) for name, _ in Counts._fields_})))


@dataclass
class Memory:
    """The allocations on the device, each between two bands that nobody may write."""

    bases: list[Tensor] = field(default_factory=list)
    workspaces: list[Tensor] = field(default_factory=list)

    def allocate(self, size: tuple[Any, ...], dtype: torch.dtype, zero: bool) -> Tensor:
        shape = torch.empty(*size, device="meta").shape
        nbytes = shape.numel() * dtype.itemsize
        base = torch.full((nbytes + 2 * BAND,), FILL, dtype=torch.uint8)
        self.bases.append(base)
        inner = base[BAND : BAND + nbytes].view(dtype).view(shape)
        if dtype is torch.uint8:
            self.workspaces.append(inner)
        return inner.zero_() if zero else inner

    def spoil_workspaces(self) -> None:
        """Fills workspaces with the garbage that a graph's pool may hold between two replays."""
        for workspace in self.workspaces:
            workspace.fill_(FILL)

    def faults(self) -> str:
        """The allocations whose band was written; each is reported once."""
        spoiled = [x for x in self.bases if not ((x[:BAND] == FILL).all() and (x[-BAND:] == FILL).all())]
        self.bases = [x for x in self.bases if not any(x is y for y in spoiled)]
        return "".join(f"memory: beside {len(x) - 2 * BAND} bytes was written\n" for x in spoiled)


kept = Memory()  # workspaces outlive a call, but for a graph's


class Placed(TorchFunctionMode):
    """Tensors that are wanted on a device are made in `memory`."""

    def __init__(self, memory: Memory, capturing: bool) -> None:
        super().__init__()
        self.memory, self.workspaces = memory, memory if capturing else kept

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        on_host = torch.device(kwargs.pop("device", None) or "cpu").type == "cpu"
        if function in (torch.empty, torch.zeros) and not on_host:
            memory = self.workspaces if kwargs["dtype"] is torch.uint8 else self.memory
            return memory.allocate(args, kwargs["dtype"], function is torch.zeros)
        return function(*args, **kwargs)


@contextmanager
def on_device(device: int, capturing: bool) -> Iterator[Memory]:
    """Every tensor says that it is on `device`, which is not the current one until somebody makes it so."""

    @contextmanager
    def current(wanted: torch.device) -> Iterator[None]:
        before = runtime.eft_runtime_enter(wanted.index)
        try:
            yield
        finally:
            runtime.eft_runtime_enter(before)

    def stream() -> Any:
        at = runtime.eft_runtime_enter(0)
        runtime.eft_runtime_enter(at)
        return SimpleNamespace(cuda_stream=STREAM + at)

    def on(target: Any, **attributes: Any) -> None:
        stack.enter_context(patch.multiple(target, create=True, **attributes))

    where, memory = torch.device("cuda", device), Memory()
    runtime.eft_runtime_begin(device, STREAM + device, capturing)
    runtime.eft_runtime_enter((device + 1) % 3)
    with ExitStack() as stack:
        on(torch.backends.cuda, is_built=lambda: True)
        on(torch.cuda, is_available=lambda: True, get_device_name=lambda: "the host", device=current)
        on(torch.cuda, current_stream=stream, is_current_stream_capturing=lambda: capturing)
        on(Tensor, device=property(lambda _: where), is_cuda=property(lambda _: True), is_cpu=property(lambda _: False))
        on(Tensor, get_device=lambda _: device)
        stack.enter_context(Placed(memory, capturing))
        yield memory
