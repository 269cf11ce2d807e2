"""A fake CUDA graph on the CPU: records the operators of a step and runs them again at the same addresses.

What a CUDA graph forbids fails here too: reading a value on the host, making a tensor from the host's data, and moving
a tensor's storage. A replay runs torch's operators and nothing else. Memory that is allocated in a capture belongs to
the graph, and the next replay overwrites it: holding a reference to it outside is an error.
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

from eft_ext.decoding.capture.host_reads import HostReads

OWN_REFERENCES = 3  # to a tensor in `escaped`: its dictionary, its variable, an argument
FROM_HOST = ("lift_fresh", "lift_fresh_copy", "_to_copy_from_host", "scalar_tensor")


def tensors_of(tree: Any) -> list[Tensor]:
    """Returns the tensors in a tree of arguments or results."""
    if isinstance(tree, Tensor):
        return [tree]
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, Tensor)]


class OperatorRecorder(TorchDispatchMode):
    """Runs torch's operators and records each with its arguments and results; raises on what a capture forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._allocated: dict[int, Any] = {}  # storages that operators have allocated, by address

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
        given_addresses = {address for address, _ in before}
        for x in results:
            storage = x.untyped_storage()
            if storage.nbytes() and storage.data_ptr() not in given_addresses:
                self._allocated[storage.data_ptr()] = storage
        self.operators.append((func, args, kwargs or {}, results))
        return out

    def run_again(self, operator: tuple[Any, Any, Any, list[Tensor]]) -> None:
        """Runs one of `operators` again, with results at the same addresses."""
        func, args, kwargs, results = operator
        for old, new in zip(results, tensors_of(func(*args, **kwargs)), strict=True):
            if old.data_ptr() != new.data_ptr():  # neither a view nor written in place
                old.copy_(new)

    def escaped(self) -> list[str]:
        """Returns the objects outside that hold a tensor allocated in the capture, as far as Python can tell."""
        held, seen, own = dict[int, Tensor](), Counter[int](), {id(self.operators)}
        for operator in self.operators:
            own.add(id(operator))
            for part in operator[1:]:
                left = [part]
                while left:
                    x = left.pop()
                    if isinstance(x, Tensor):
                        if x.untyped_storage().data_ptr() in self._allocated:
                            held[id(x)] = x
                            seen[id(x)] += 1
                    elif isinstance(x, (list, tuple, dict)):
                        if id(x) in own:  # its tensors have been counted
                            continue
                        own.add(id(x))
                        left += x.values() if isinstance(x, dict) else x
        x = None
        # Searching all objects takes long: only for tensors with more references than those here.
        more = [x for x in held.values() if sys.getrefcount(x) > seen[id(x)] + OWN_REFERENCES]
        own |= {id(held), id(more), id(sys._getframe())}
        holders = gc.get_referrers(*more) if more else []
        return [f"{type(holder).__name__} {holder!r:.60}" for holder in holders if id(holder) not in own]


class FakeGraphDevice:
    """`capture.cuda_device.Device` whose graphs are recorded operators; counts captures and replays."""

    def __init__(self) -> None:
        self.captures = self.replays = self.warm_ups = self.forks = 0

    def parallel(self, works: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        """Runs the functions in reverse order, since nothing may depend on their order."""
        self.forks += 1
        return [work() for work in reversed(works)][::-1]

    def warm(self, work: Callable[[], None]) -> None:
        self.warm_ups += 1
        work()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        recorder = OperatorRecorder()
        with state_restored(), HostReads(forbid=True), recorder:
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


RESTORED: list[Tensor] = []  # tensors that a step writes and a capture restores; set by each test


@contextmanager
def state_restored():
    """Restores RESTORED at the end: a capture computes nothing."""
    before = [x.clone() for x in RESTORED]
    yield
    for x, old in zip(RESTORED, before, strict=True):
        x.copy_(old)


class FakeWhileLoop:
    """A fake WHILE node: replays the graph while a row is active."""

    def __init__(self, replay: Callable[[], None], state: Any) -> None:
        self._replay, self._state, self.launches, self.closed = replay, state, [], False

    def launch(self, max_steps: int) -> None:
        self.launches.append(max_steps)
        for _ in range(max_steps):
            self._replay()
            if not bool(self._state.active.any()):
                break

    def poll(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


class FakeLoopDevice(FakeGraphDevice):
    """A device that also has WHILE loops, or whose `loop` fails."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.loops: list[FakeWhileLoop] = []
        self._fails = fails

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self._last = super().capture(work)
        return self._last

    def loop(self, engine: Any) -> FakeWhileLoop:
        if self._fails:
            raise NotImplementedError("loop: libeft was built with CUDA 12.2, which has no WHILE nodes")
        self.loops.append(FakeWhileLoop(self._last, engine.state))
        return self.loops[-1]
