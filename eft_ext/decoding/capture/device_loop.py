"""The whole loop on the device: a WHILE node around the captured step, which the host starts and then only watches."""

from __future__ import annotations

import time
import warnings
from typing import Any, Protocol

from eft_ext.decoding.capture.cuda_device import Device
from eft_ext.decoding.capture.graphs import Graphs
from eft_ext.decoding.stepper import Stepper

STEPS = 256  # of one launch at most: the ring keeps all of them until the host reads
WATCH = 2e-4  # seconds between two looks


class Loop(Protocol):
    """Steps that run until no row is active, or as often as a launch says (csrc/include/eft_loop.h)."""

    def launch(self, max_steps: int) -> None: ...

    def poll(self) -> bool:
        """True while it is under way."""

    def close(self) -> None: ...


class LoopDevice(Device, Protocol):
    """A device that can put the step it captured last into a loop."""

    def loop(self, engine: Stepper) -> Loop: ...


class DeviceLoops(Graphs):
    """`Graphs` whose `chunk` runs many steps in one launch; where loops cannot be built it runs single ones.

    Attributes:
        loop_reason: why there are no loops, if building one has failed.
    """

    def __init__(self, engine: Stepper, device: LoopDevice) -> None:
        super().__init__(engine, device)
        self._loops: dict[Any, Loop] = {}
        self._looping = device
        self.loop_reason: str | None = None

    def chunk(self, limit: int) -> int:
        """Runs at least one step and at most `limit`; waits for them and returns how many there were."""
        shape = self._engine.shape
        loop = None if self._stale() else self._loops.get(shape)
        if loop is None:
            known = shape in self._replays
            self()
            if shape in self._replays and not known and self.loop_reason is None:
                self._build(shape)
            return 1
        before = int(self._engine.state.tick)
        loop.launch(limit)
        while loop.poll():
            time.sleep(WATCH)
        return int(self._engine.state.tick) - before

    def _build(self, shape: Any) -> None:
        try:
            self._loops[shape] = self._looping.loop(self._engine)
        except Exception as error:  # an old driver, or a step that holds what a WHILE body may not
            self.loop_reason = f"{type(error).__name__}: {error}".splitlines()[0]
            warnings.warn(f"no loop on the device, the host launches each step: {self.loop_reason}", stacklevel=2)

    def _forget(self) -> None:
        for loop in self._loops.values():
            loop.close()
        self._loops.clear()
        super()._forget()  # last: the loops run in the graphs' memory
