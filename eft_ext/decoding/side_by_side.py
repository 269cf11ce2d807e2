"""On a CPU: the models of a step side by side, each on threads of its own.

One after another, all threads share each product and wait for each other at its end, and torch's product of one row
takes as long on two threads as on one. Side by side they wait once a step. A lane is a thread of Python with a share of
torch's threads; it runs one model or some small ones.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.placement import one_after_another

WORTH = 2**24  # bytes that the lanes beside the first one read: about a millisecond

_LANES: dict[tuple[int, ...], list[ThreadPoolExecutor]] = {}  # by the threads of each
_LOCK = Lock()


def _forked() -> None:
    """A forked child has none of its parent's threads."""
    global _LOCK
    _LOCK = Lock()
    _LANES.clear()


os.register_at_fork(after_in_child=_forked)


class SideBySide:
    """Runs passes of a step (`placement.Parallel`) in lanes that are dealt out by what each reads.

    Args:
        passes: all that may run in a step.
        sizes: bytes of their weights.
        threads: of all lanes together, at least 2.
    """

    def __init__(self, passes: Sequence[Any], sizes: Sequence[int], threads: int) -> None:
        self._sizes = {id(one): size for one, size in zip(passes, sizes, strict=True)}
        self._threads = dealt_out(sizes, threads)
        self._lanes = _lanes(self._threads)

    def __call__(self, works: Sequence[partial[Tensor]]) -> list[Tensor]:
        if _is_watched():
            return one_after_another(works)
        sizes = [self._sizes[id(work.func.__self__)] for work in works]  # type: ignore[attr-defined]
        places = assigned(sizes, self._threads)
        running = [
            lane.submit(_run, [works[i] for i in some]) for lane, some in zip(self._lanes, places, strict=True) if some
        ]
        wait(running)  # all of them, whatever one raises: none may still read what the caller lets go
        found = dict(
            zip((i for some in places for i in some), (x for one in running for x in one.result()), strict=True)
        )
        return [found[i] for i in range(len(works))]


def dealt_out(sizes: Sequence[int], threads: int) -> tuple[int, ...]:
    """The threads of each lane, most first: a lane for each model or thread, further threads where they help most."""
    lanes = [1] * min(threads, len(sizes))
    loads = [sum(sizes[i] for i in some) for some in assigned(sizes, lanes)]
    for _ in range(threads - len(lanes)):
        lanes[max(range(len(lanes)), key=lambda k: loads[k] / lanes[k])] += 1
    return tuple(sorted(lanes, reverse=True))


def assigned(sizes: Sequence[int], threads: Sequence[int]) -> list[list[int]]:
    """Places of models by lane: the largest first, each where it ends soonest."""
    lanes: list[list[int]] = [[] for _ in threads]
    loads = [0] * len(lanes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        k = min(range(len(lanes)), key=lambda k: (loads[k] + sizes[i]) / threads[k])
        lanes[k].append(i)
        loads[k] += sizes[i]
    return lanes


def is_worth(sizes: Sequence[int], threads: int) -> bool:
    """True where lanes beside the one that reads most have enough to read."""
    if threads < 2 or len(sizes) < 2:
        return False
    loads = [sum(sizes[i] for i in some) for some in assigned(sizes, dealt_out(sizes, threads))]
    return sum(loads) - max(loads) >= WORTH


def _lanes(threads: tuple[int, ...]) -> list[ThreadPoolExecutor]:
    """Kept for all generations: two that run at once share them."""
    with _LOCK:
        if threads not in _LANES:
            before = torch.get_num_threads()
            named = [(f"eft_ext lane {k}", n) for k, n in enumerate(threads)]
            lanes = [ThreadPoolExecutor(1, name, torch.set_num_threads, (n,)) for name, n in named]
            for lane in lanes:
                lane.submit(int).result()
            torch.set_num_threads(before)  # what threads begin with that have asked for nothing
            _LANES[threads] = lanes
        return _LANES[threads]


def _is_watched() -> bool:
    """True where a profiler or a mode of torch, such as one that counts operations, sees this thread alone."""
    modes = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()
    return modes > 0 or torch.autograd._profiler_enabled()


@torch.inference_mode()
def _run(works: Sequence[partial[Tensor]]) -> list[Tensor]:
    return [work() for work in works]
