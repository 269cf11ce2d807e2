"""Wall time and the process's CPU time of a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Taken:
    """Seconds of one call.

    Attributes:
        seconds: what is reported: CPU time where one thread works, else wall time.
        wall: seconds on the wall.
    """

    seconds: float
    wall: float


@dataclass(frozen=True)
class Clock:
    """Times calls on a device. With one thread its CPU time counts: other load on the machine then does not."""

    device: str
    threads: int

    @property
    def name(self) -> str:
        return "cpu" if self.device == "cpu" and self.threads == 1 else "wall"

    def time(self, call: Callable[[], Any]) -> Taken:
        self._synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        self._synchronize()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Taken(cpu if self.name == "cpu" else wall, wall)

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
