"""The first call in a fresh process, models built and nothing generated yet."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from peers.cells import MAX_FIRST, Cell
from peers.clock import Clock, Taken
from peers.contenders import contenders

NEW = 16


def first_call(models: Sequence[Any], cell: Cell, name: str, sample: bool, clock: Clock) -> Taken:
    """Builds the contender and times its first call of 16 new tokens."""
    torch.set_num_threads(clock.threads)
    ids = cell.ids(models, clock.device)

    def call() -> None:
        contenders(models, ids, [name], sample)[name](NEW)

    return clock.time(call)


def forked(models: Sequence[Any], cell: Cell, name: str, sample: bool, clock: Clock) -> Taken:
    """Times it in a child of this process, which itself generates nothing: each call finds it fresh.

    This process must have run on one thread: a thread pool does not survive a fork.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            taken = first_call(models, cell, name, sample, clock)
            os.write(writing, json.dumps([taken.seconds, taken.wall]).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return Taken(*json.loads(said)) if said else Taken(float("nan"), float("nan"))


def print_first_calls(
    models: Sequence[Any], cells: Sequence[Cell], names: Sequence[str], sample: bool, clock: Clock, seconds: float
) -> None:
    """Prints a line of JSON for each cell and contender: medians of all calls that begin in `seconds` a cell."""
    for cell in cells:
        end, taken = time.monotonic() + seconds, {name: list[Taken]() for name in names}
        for i in range(MAX_FIRST if clock.device == "cpu" else 1):
            if i and time.monotonic() > end:
                break
            for name in names:
                timed = forked if clock.device == "cpu" else first_call
                taken[name].append(timed(models, cell, name, sample, clock))
        for name, calls in taken.items():
            found = {"first_call_s": [c.seconds for c in calls], "first_call_wall_s": [c.wall for c in calls]}
            medians = {key: statistics.median(values) for key, values in found.items()}
            print(json.dumps({"rows": cell.rows, "prompt": cell.prompt, "name": name, **medians}))
        sys.stdout.flush()
