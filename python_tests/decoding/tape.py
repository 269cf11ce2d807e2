"""A stand-in for CUDA graphs on the CPU: records the operators of a step and runs them again at the same addresses.

What a graph forbids fails here too: reading a value on the host, making a tensor from the host's data, and anything
that happens outside of torch's operators, since a replay runs nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from eft_ext.decoding.host_reads import HostReads

FROM_HOST = ("lift_fresh", "lift_fresh_copy", "_to_copy_from_host", "scalar_tensor")


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in FROM_HOST:
            raise RuntimeError(f"{name}: data of the host in a capture")
        out = func(*args, **(kwargs or {}))
        results = [x for x in pytree.tree_leaves(out) if isinstance(x, Tensor)]
        self.operators.append((func, args, kwargs or {}, results))
        return out


class TapeDevice:
    """`eft_ext.decoding.device.Device` whose graphs are tapes."""

    def __init__(self) -> None:
        self.captures = self.replays = self.warm_ups = self.forks = 0

    def parallel(self, works: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        """In the reverse order, since nothing may depend on it."""
        self.forks += 1
        return [work() for work in reversed(works)][::-1]

    def warm(self, work: Callable[[], None]) -> None:
        self.warm_ups += 1
        work()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        recorder = Recorder()
        with undone(), HostReads(forbid=True), recorder:
            work()

        def replay() -> None:
            self.replays += 1
            for func, args, kwargs, kept in recorder.operators:
                again = [x for x in pytree.tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
                for old, new in zip(kept, again, strict=True):
                    if old.data_ptr() != new.data_ptr():  # neither a view nor written in place
                        old.copy_(new)

        return replay


WATCHED: list[Tensor] = []


@contextmanager
def undone():
    """A capture computes nothing: what the operators wrote into the state is put back."""
    before = [x.clone() for x in WATCHED]
    yield
    for x, old in zip(WATCHED, before, strict=True):
        x.copy_(old)


class TapeLoop:
    """A WHILE node's stand-in: the tape again and again while a row is alive."""

    def __init__(self, replay: Callable[[], None], state: Any) -> None:
        self._replay, self._state, self.launches, self.closed = replay, state, [], False

    def launch(self, max_steps: int) -> None:
        self.launches.append(max_steps)
        for _ in range(max_steps):
            self._replay()
            if not bool(self._state.alive.any()):
                break

    def poll(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


class LoopingTapeDevice(TapeDevice):
    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.loops: list[TapeLoop] = []
        self._fails = fails

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self._last = super().capture(work)
        return self._last

    def loop(self, engine: Any) -> TapeLoop:
        if self._fails:
            raise NotImplementedError("loop: libeft was built with CUDA 12.2, which has no WHILE nodes")
        self.loops.append(TapeLoop(self._last, engine.state))
        return self.loops[-1]
