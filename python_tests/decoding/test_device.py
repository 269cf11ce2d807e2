"""The streams of a CUDA step, with stand-ins for torch's: every model runs, and the main stream waits for each."""

import gc
import itertools
from contextlib import contextmanager
from types import SimpleNamespace
from typing import ClassVar
from weakref import ref

import pytest
import torch

from eft_ext.decoding.capture.cuda_device import CudaDevice
from eft_ext.ops.backends import native_loop


class Stream:
    def __init__(self, device=None):
        self.waited = []

    def wait_event(self, event):
        self.waited.append(event)

    def wait_stream(self, stream):
        self.waited.append(stream)


class Event:
    def record(self, stream):
        self.stream = stream


class Graph:
    """With torch's rule for pools: one whose graphs have all gone may not be captured into again."""

    pools: ClassVar[dict] = {}

    def __init__(self, keep_graph=False):
        self.keep_graph = keep_graph

    def captured(self, pool):
        users = Graph.pools.setdefault(pool, [])
        assert not users or any(user() is not None for user in users), "a pool that nobody uses any more"
        users.append(ref(self))

    def replay(self):
        pass

    def raw_cuda_graph(self):
        return id(self)


@pytest.fixture
def on(monkeypatch):
    """Stand-ins for torch's; the streams that are current, the last one now."""
    entered = [Stream()]
    handles = itertools.count(7)
    Graph.pools.clear()

    @contextmanager
    def stream(side):
        entered.append(side)
        yield
        entered.pop()

    for name, value in {
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph_pool_handle": lambda: (0, next(handles)),
        "current_stream": lambda device: entered[-1],
        "set_stream": entered.append,
        "stream": stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return entered


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_model_has_a_stream(on, count):
    main, ran = on[0], {}

    def work(k):
        ran[k] = on[-1]
        return k

    device = CudaDevice(torch.device("cuda"))
    assert device.parallel([lambda k=k: work(k) for k in range(count)]) == list(range(count))
    assert ran[0] is main
    assert len(set(map(id, ran.values()))) == count, "no two on one stream"
    assert main.waited == [ran[k] for k in range(1, count)]
    for k in range(1, count):
        assert [event.stream for event in ran[k].waited] == [main]


@pytest.mark.parametrize(("failing", "forked"), [(0, 2), (1, 1), (2, 2)])
@pytest.mark.parametrize("called_off", [False, True])
def test_streams_join_where_a_model_raises(on, monkeypatch, failing, forked, called_off):
    """A capture that a stream has not joined cannot be ended; one that CUDA has called off cannot be joined."""
    main, joined = on[0], []

    def wait_stream(stream):
        joined.append(stream)
        if called_off:
            raise RuntimeError("operation failed due to a previous error during capture")

    def work(k):
        if k == failing:
            raise ValueError(f"of model {k}")
        return k

    monkeypatch.setattr(main, "wait_stream", wait_stream, raising=False)
    with pytest.raises(ValueError, match=f"of model {failing}"):
        CudaDevice(torch.device("cuda")).parallel([lambda k=k: work(k) for k in range(3)])
    assert len(joined) == forked


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "called off"])
def test_a_capture_that_fails_leaves_nothing_behind(on, monkeypatch, ends):
    """torch's context leaves its stream the current one, and its pool open, where ending the capture fails."""
    main, closed = on[0], []

    @contextmanager
    def graph(graph, pool, stream, capture_error_mode):
        on.append(stream)
        try:
            yield
        finally:
            if not ends:
                raise RuntimeError("operation failed due to a previous error during capture")
            on.pop()

    def close(index, pool):
        closed.append((index, pool))
        if ends:
            raise RuntimeError("not currently recording")

    def work():
        raise ValueError("of the model")

    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", close, raising=False)
    device = CudaDevice(torch.device("cuda", 1))
    with pytest.raises(ValueError, match="of the model") as raised:
        device.capture(work)
    assert raised.value.__suppress_context__
    assert on[-1] is main
    assert closed == [(1, (0, 7))]
    assert not device._graphs


@contextmanager
def capturing(graph, pool, stream, capture_error_mode):
    graph.captured(pool)
    yield


@pytest.mark.slow
def test_a_graph_goes_with_what_replays_it(on, monkeypatch):
    """A long service captures again and again, as batches come and storage grows."""
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    device = CudaDevice(torch.device("cuda"))
    graphs, replays = [], []
    for _ in range(3):
        replays += [device.capture(lambda: None), device.capture(lambda: None)]
        graphs += [ref(replay.__self__) for replay in replays]
        assert len(device._graphs) == 2
        replays.clear()
        gc.collect()
        assert not any(graph() for graph in graphs), "an executable is left"
    pools = [pool for pool, users in Graph.pools.items() if len(users) == 2]
    assert len(pools) >= 3, "two graphs share a pool"


def test_a_loop_is_built_from_the_last_graph(on, monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    monkeypatch.setattr(native_loop, "WhileLoop", lambda advance, rows, graph: graph)
    device = CudaDevice(torch.device("cuda"), keep_graph=True)
    replays = [device.capture(lambda: None), device.capture(lambda: None)]
    engine = SimpleNamespace(state=SimpleNamespace(prepared_advance=None, rows=1))
    assert device.loop(engine) == id(replays[-1].__self__)
