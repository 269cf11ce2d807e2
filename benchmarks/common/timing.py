"""Timing a call: medians and tails in microseconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def times_us(call: Callable[[], object], seconds: float, at_least: int = 7) -> np.ndarray:
    """Returns the microseconds of each call, for about `seconds`, after one warm-up call."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < at_least:
        start = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - start))
    return np.array(times)


def median_us(call: Callable[[], object], seconds: float) -> float:
    return float(np.median(times_us(call, seconds)))
