"""`torch.cuda` without a device: streams that run at once, events that read the clock, one device that is the host.

Code that is to run on a GPU for the first time runs here before, unchanged. CUDA kernels run on the SIMT emulator
(csrc/emulator), Triton's in its interpreter. Nothing here says anything about speed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

NAME = "stand-in on the host"
PROPERTIES = SimpleNamespace(
    name=NAME, major=9, minor=0, multi_processor_count=132, L2_cache_size=2**10, total_memory=2**27
)


class Event:
    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self._time = 0.0

    def record(self, stream: Any = None) -> None:
        self._time = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end._time - self._time)

    def synchronize(self) -> None:
        _check()

    def wait(self, stream: Any = None) -> None: ...

    def query(self) -> bool:
        return True


class Stream:
    made = 0

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        from python_tests.standin import runtime

        self.cuda_stream, self.device = runtime.STREAM + Stream.made, device
        Stream.made += 1

    def synchronize(self) -> None:
        _check()

    def wait_event(self, event: Event) -> None: ...

    def wait_stream(self, stream: Stream) -> None: ...

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record()
        return event

    def query(self) -> bool:
        return True


def _check() -> None:
    from python_tests.standin import runtime

    runtime.check()


def install(torch: Any) -> None:
    """Replaces the functions of `torch.cuda`, once torch has been imported."""
    from python_tests.standin import graphs, runtime, tensors

    tensors.install()
    main = Stream()
    own = threading.local()
    mode = ["default"]

    def current_stream(_: Any = None) -> Stream:
        return getattr(own, "stream", main)

    def set_stream(stream: Stream) -> None:
        own.stream = stream
        runtime.use_stream(stream.cuda_stream)

    @contextmanager
    def stream(wanted: Stream | None) -> Iterator[None]:
        before = current_stream()
        set_stream(wanted or before)
        try:
            yield
        finally:
            set_stream(before)

    @contextmanager
    def device(_: Any) -> Iterator[None]:
        yield

    def synchronize(_: Any = None) -> None:
        if runtime.capturing():
            raise RuntimeError("synchronize: not permitted when a stream is capturing")
        runtime.check()

    handles = iter(range(1, 2**31))
    standins = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda *_: None,  # a function of its own each: dynamo tells them apart by identity
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda *_: None,
        "get_device_name": lambda _=None: NAME,
        "get_device_properties": lambda _=None: PROPERTIES,
        "get_device_capability": lambda _=None: (9, 0),
        "mem_get_info": lambda _=None: (2**33, 2**33),
        "memory_stats": lambda _=None: {"allocation.all.allocated": 0},
        "memory_allocated": lambda _=None: 0,
        "max_memory_allocated": lambda _=None: 0,
        "empty_cache": lambda *_: None,
        "manual_seed": lambda *_: None,
        "manual_seed_all": lambda *_: None,
        "synchronize": synchronize,
        "device": device,
        "Stream": Stream,
        "Event": Event,
        "stream": stream,
        "current_stream": current_stream,
        "default_stream": lambda _=None: main,
        "set_stream": set_stream,
        "is_current_stream_capturing": runtime.capturing,
        "get_sync_debug_mode": lambda: mode[-1],
        "set_sync_debug_mode": mode.append,
        "graph_pool_handle": lambda: (0, next(handles)),
        "CUDAGraph": graphs.CUDAGraph,
        "graph": graphs.graph,
    }
    for name, value in standins.items():
        setattr(torch.cuda, name, value)
    torch.backends.cuda.is_built = lambda: True
    torch.compile = lambda function=None, **_: function if function is not None else (lambda inner: inner)
    begin = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def begin_on_device(thread: threading.Thread) -> None:
        set_stream(main)
        with tensors.OnDevice():
            begin(thread)

    threading.Thread._bootstrap_inner = begin_on_device  # type: ignore[attr-defined]
    set_stream(main)


def ignore_captures(tracing: Any) -> None:
    """Patches `eft_ext.ops.tracing`: a capture of the stand-in does not count as tracing, as a real one does not."""
    from python_tests.standin import runtime

    is_tracing = tracing.is_tracing
    tracing.is_tracing = lambda: not runtime.capturing() and is_tracing()


def interpret_triton(backend: Any) -> None:
    """Patches `eft_ext.ops.backends.registry`: Triton's interpreter takes the stand-in's tensors."""
    if os.environ.get("TRITON_INTERPRET"):
        backend._interpreted = lambda: False


def launch_triton(interpreter: Any) -> None:
    """Patches `triton.runtime.interpreter`: a kernel is one launch, also in a capture."""
    run = interpreter.GridExecutor.__call__

    def launched(self: Any, *args: Any, **kwargs: Any) -> Any:
        from python_tests.standin.capture import launch  # imports transformers, which wants the whole of Triton

        return launch(lambda: run(self, *args, **kwargs))

    interpreter.GridExecutor.__call__ = launched
