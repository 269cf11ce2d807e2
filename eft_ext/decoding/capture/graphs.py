"""The step as graphs: one for each number of rows and of slots that attention reads, replayed without Python."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from eft_ext.decoding.capture.cuda_device import Device
from eft_ext.decoding.stepper import Stepper

WARM_UPS = 2  # real steps that run before a capture: kernels are loaded, libraries allocate their buffers


class Graphs:
    """Runs `engine.step`, from a graph once there is one for the batch as it is.

    Attributes:
        reason: why steps are not captured, if that has failed; they then run as they are.
    """

    def __init__(self, engine: Stepper, device: Device) -> None:
        self._engine, self._device = engine, device
        self._runs: dict[Any, int] = {}
        self._replays: dict[Any, Callable[[], None]] = {}
        self._addresses: tuple[int, ...] = ()
        self.reason: str | None = None

    def __call__(self) -> None:
        engine = self._engine
        if self.reason is not None:
            engine.step()
            return
        if self._stale():
            self._forget()
        shape = engine.shape
        replay = self._replays.get(shape)
        if replay is None:
            self._runs[shape] = self._runs.get(shape, 0) + 1
            if self._runs[shape] <= WARM_UPS:
                self._device.warm(engine.step)
                return
            replay = self._capture(shape)
        replay()

    def _stale(self) -> bool:
        """True if storage has grown, so that what was captured reads and writes elsewhere."""
        return self._engine.addresses() != self._addresses

    def _forget(self) -> None:
        self._runs.clear()
        self._replays.clear()
        self._addresses = self._engine.addresses()

    def _capture(self, shape: Any) -> Callable[[], None]:
        try:
            replay = self._device.capture(self._engine.step)
        except Exception as error:  # whatever a model does that a graph cannot hold
            self.reason = f"{type(error).__name__}: {error}".splitlines()[0]
            warnings.warn(f"the step is not captured, so it runs slower: {self.reason}", stacklevel=2)
            return self._engine.step
        self._engine.forget_logits()
        self._replays[shape] = replay
        # A capture must leave everything where it was, or the graph would write into what nobody reads.
        assert self._engine.addresses() == self._addresses
        return replay


def bucket(rows: int) -> int:
    """Rows that a graph is captured for: 1, 2, 4, 8, then multiples of 8."""
    return next((size for size in (1, 2, 4, 8) if rows <= size), -(-rows // 8) * 8)
