"""A stand-in for CUDA graphs on the CPU: records the operators of a step and runs them again at the same addresses.

What a graph forbids fails here too: reading a value on the host, making a tensor from the host's data, storage that
moves under a tensor, and anything that happens outside of torch's operators, since a replay runs nothing else. Memory
that is allocated in a capture belongs to the graph, and the next replay writes over it: nobody may hold on to it.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from eft_ext.decoding.host_reads import HostReads

OURS = 3  # references to a tensor in `escaped`: of its dictionary, its variable, an argument
FROM_HOST = ("lift_fresh", "lift_fresh_copy", "_to_copy_from_host", "scalar_tensor")


def tensors_of(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, Tensor)]


class Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._made: dict[int, Any] = {}  # storages that were allocated here, by address

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in FROM_HOST:
            raise RuntimeError(f"{name}: data of the host in a capture")
        given = tensors_of((args, kwargs))
        before = [(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) for x in given]
        out = func(*args, **(kwargs or {}))
        if [(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) for x in given] != before:
            raise RuntimeError(f"{name}: moves a tensor's storage in a capture")
        results = tensors_of(out)
        known = {address for address, _ in before}
        for x in results:
            storage = x.untyped_storage()
            if storage.nbytes() and storage.data_ptr() not in known:
                self._made[storage.data_ptr()] = storage
        self.operators.append((func, args, kwargs or {}, results))
        return out

    def run_again(self, operator: tuple[Any, Any, Any, list[Tensor]]) -> None:
        """One of `operators`, at the same addresses."""
        func, args, kwargs, kept = operator
        for old, new in zip(kept, tensors_of(func(*args, **kwargs)), strict=True):
            if old.data_ptr() != new.data_ptr():  # neither a view nor written in place
                old.copy_(new)

    def escaped(self) -> list[str]:
        """Who else holds a tensor whose memory was allocated in the capture, as far as Python knows."""
        held, seen, own = dict[int, Tensor](), Counter[int](), {id(self.operators)}
        for operator in self.operators:
            own.add(id(operator))
            for part in operator[1:]:
                left = [part]
                while left:
                    x = left.pop()
                    if isinstance(x, Tensor):
                        if x.untyped_storage().data_ptr() in self._made:
                            held[id(x)] = x
                            seen[id(x)] += 1
                    elif isinstance(x, (list, tuple, dict)):
                        if id(x) in own:  # its tensors have been counted
                            continue
                        own.add(id(x))
                        left += x.values() if isinstance(x, dict) else x
        x = None
        # Searching all objects takes long: only for tensors with more references than those here.
        more = [x for x in held.values() if sys.getrefcount(x) > seen[id(x)] + OURS]
        own |= {id(held), id(more), id(sys._getframe())}
        holders = gc.get_referrers(*more) if more else []
        return [f"{type(holder).__name__} {holder!r:.60}" for holder in holders if id(holder) not in own]


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

        checked = [False]

        def replay() -> None:
            self.replays += 1
            if not checked[0]:  # not at the end of the capture: what captures may drop what the step has left
                checked[0] = True
                escaped = recorder.escaped()
                assert not escaped, f"memory of the graph is held outside: {escaped}"
            for operator in recorder.operators:
                recorder.run_again(operator)

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
