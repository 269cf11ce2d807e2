"""Tuned and base on a GPU, each way as one CUDA graph: one after another, on two streams, or with stacked weights."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import common  # noqa: F401  makes this checkout's package known
import torch
from torch import Tensor

from eft_ext.decoding.capture.cuda_device import CudaDevice
from eft_ext.decoding.placement import one_after_another

Works = list[Callable[[], Any]]


def times_of(works: Works, together: Callable[[], Tensor], rounds: int) -> dict[str, Any]:
    """Microseconds of a step of both models, medians of replays, run in turns; the reason where a way fails.

    Args:
        works: a pass of each model.
        together: a pass of both.
    """
    device = CudaDevice(torch.device("cuda", torch.cuda.current_device()))
    ways: dict[str, Callable[[], Any]] = {
        "one after another": lambda: one_after_another(works),
        "two streams": lambda: device.parallel(works),
        "stacked weights": together,
    }
    replays: dict[str, Callable[[], None]] = {}
    found: dict[str, Any] = {}
    for name, way in ways.items():
        try:
            for _ in range(3):
                device.warm(way)
            replays[name] = device.capture(way)
        except Exception as error:  # vmap may not have a rule that a graph can hold
            found[name] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
    times: dict[str, list[float]] = {name: [] for name in replays}
    for _ in range(rounds):
        for name, replay in replays.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            replay()
            end.record()
            end.synchronize()
            times[name].append(1e3 * start.elapsed_time(end))
    return found | {name: statistics.median(values) for name, values in times.items()}
