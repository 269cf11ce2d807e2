"""Timing on a CUDA device: eager calls, graph replays, the host's share, and the copy bandwidth they are held against.

A call is timed over several sets of inputs in turn. One set is *hot*: its inputs may stay in the L2 cache. Enough sets
to overflow the L2 (`sets_beyond_l2`) is *cold*, as in a loop in which the models' weights pass through the cache
between two steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

Calls = Sequence[Callable[[], object]]
SAMPLES = 9


def sets_beyond_l2(set_bytes: int, l2_bytes: int, factor: float = 3.0) -> int:
    """Returns the number of sets that, used in turn, evict each other: `factor` times the cache's size in all."""
    return max(2, -(-int(factor * l2_bytes) // set_bytes))


def l2_bytes() -> int:
    return torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size


def _elapsed_us(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return 1e3 * start.elapsed_time(end)


def _median_us(run: Callable[[], object], calls: int, seconds: float) -> float:
    """Returns microseconds a call, where `run` makes `calls` of them: the median of runs that fill `seconds`."""
    samples: list[float] = []
    stop = time.perf_counter() + seconds
    while len(samples) < SAMPLES or time.perf_counter() < stop:
        samples.append(_elapsed_us(run) / calls)
        if len(samples) >= 3 and sum(samples) * calls > 1e7 * seconds:  # calls of many milliseconds
            break
    return median(samples)


def _in_turn(calls: Calls, times: int) -> None:
    for i in range(times):
        calls[i % len(calls)]()


def eager_us(calls: Calls, seconds: float = 0.05) -> float:
    """Returns microseconds a call, one after another from Python: the larger of the host's and the device's share."""
    _in_turn(calls, min(len(calls), 3))
    torch.cuda.synchronize()
    times = _times(calls)
    return _median_us(lambda: _in_turn(calls, times), times, seconds)


def _times(calls: Calls) -> int:
    """Returns a number of calls that take some 5 ms together: 2 to 200."""
    one = _elapsed_us(lambda: _in_turn(calls, 2)) / 2
    return max(2, min(200, int(5e3 / max(one, 1.0))))


def host_us(calls: Calls) -> float:
    """Returns microseconds until a call returns, while the device still works on those before it."""
    samples, times = [], _times(calls)
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        _in_turn(calls, times)
        samples.append(1e6 * (time.perf_counter() - start) / times)
    torch.cuda.synchronize()
    return median(samples)


def check_no_sync(call: Callable[[], object]) -> None:
    """Raises RuntimeError where a call waits for the device. A capture would find that too, but torch does not recover
    from one that fails: its pool's memory is never freed, and its stream stays the current one."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        torch.cuda.set_sync_debug_mode(before)


def graph_us(calls: Calls, seconds: float = 0.05) -> float:
    """Returns microseconds a call inside a replayed CUDA graph of 20 calls, or of all if there are more (fewer if a
    call takes over .25 ms)."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        _in_turn(calls, min(len(calls), 3))
        check_no_sync(calls[0])
        times = max(len(calls), min(20, _times(calls)))
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph):
            _in_turn(calls, times)
    finally:
        torch.cuda.set_stream(current)
    graph.replay()
    torch.cuda.synchronize()
    return _median_us(graph.replay, times, seconds)


def copy_bytes_per_us() -> float:
    """Returns bytes read and written a microsecond by a device-to-device copy of 2 GiB, or a sixteenth of the memory:
    the bandwidth of the floor."""
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    source = torch.empty(min(2**31, memory // 16), dtype=torch.uint8, device="cuda").random_(0, 255)
    target = torch.empty_like(source)
    return 2 * source.numel() / _median_us(lambda: target.copy_(source), 1, seconds=0.2)
