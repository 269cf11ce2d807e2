"""The streams of a CUDA step, with stand-ins for torch's: every model runs, and the main stream waits for each."""

from contextlib import contextmanager

import pytest
import torch

from eft_ext.decoding.device import CudaDevice


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


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_model_has_a_stream(monkeypatch, count):
    main, on = Stream(), []

    @contextmanager
    def stream(side):
        on.append(side)
        yield
        on.pop()

    for name, value in {
        "Stream": Stream,
        "Event": Event,
        "graph_pool_handle": lambda: None,
        "current_stream": lambda device: main,
        "stream": stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    ran = {}

    def work(k):
        ran[k] = on[-1] if on else main
        return k

    device = CudaDevice(torch.device("cuda"))
    assert device.parallel([lambda k=k: work(k) for k in range(count)]) == list(range(count))
    assert ran[0] is main
    assert len(set(map(id, ran.values()))) == count, "no two on one stream"
    assert main.waited == [ran[k] for k in range(1, count)]
    for k in range(1, count):
        assert [event.stream for event in ran[k].waited] == [main]
