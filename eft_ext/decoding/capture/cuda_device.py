"""The device of a step: models run one after another, or on streams of their own and captured as one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, Protocol
from weakref import WeakSet, ref

import torch
from torch import Tensor

from eft_ext.ops.backends import native_loop
from eft_ext.ops.inputs import MAX_MODELS

_ONE_CAPTURE = Lock()  # in a process, as torch's graphs want it


class Device(Protocol):
    """The calls that `Graphs` makes on a device; tests put a stand-in here."""

    def parallel(self, works: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        """The results of works that do not depend on each other."""

    def warm(self, work: Callable[[], None]) -> None:
        """Runs `work` where it will be captured, so that libraries make their buffers before."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Returns a function that replays `work`, which is not run now."""


class CudaDevice:
    """A stream for each model, and one pool of memory for all graphs. A graph lives as long as what replays it.

    Args:
        device: of all models.
        keep_graph: keep what `torch.cuda.CUDAGraph.raw_cuda_graph` returns, for a loop on the device.
    """

    def __init__(self, device: torch.device, *, keep_graph: bool = False) -> None:
        self._device = device
        self._main = torch.cuda.Stream(device)
        self._side = [torch.cuda.Stream(device) for _ in range(MAX_MODELS - 1)]
        self._pool: Any = None
        self._keep_graph = keep_graph
        self._graphs: WeakSet[Any] = WeakSet()
        self._last: Callable[[], Any] = lambda: None  # the graph that was captured last, while it lives

    def parallel(self, works: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        """The first on the current stream, the others on streams that fork from it and join it again."""
        main = torch.cuda.current_stream(self._device)
        fork = torch.cuda.Event()
        fork.record(main)
        others: list[Tensor] = []
        forked: list[Any] = []
        try:
            for work, stream in zip(works[1:], self._side[: len(works) - 1], strict=True):
                stream.wait_event(fork)
                forked.append(stream)
                with torch.cuda.stream(stream):
                    others.append(work())
            first = works[0]()
        except BaseException:
            for stream in forked:  # a capture that a stream has not joined could not even be ended
                with suppress(RuntimeError):  # CUDA has called it off
                    main.wait_stream(stream)
            raise
        for stream in forked:
            main.wait_stream(stream)
        return [first, *others]

    def warm(self, work: Callable[[], None]) -> None:
        current = torch.cuda.current_stream(self._device)
        self._main.wait_stream(current)
        with torch.cuda.stream(self._main):
            work()
        current.wait_stream(self._main)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        # Thread-local: another thread may use the device meanwhile, as readers of streamers do.
        graph = torch.cuda.CUDAGraph(keep_graph=True) if self._keep_graph else torch.cuda.CUDAGraph()
        living = list(self._graphs)  # and for as long as this takes: torch refuses a pool whose graphs have all gone
        if not living:
            self._pool = torch.cuda.graph_pool_handle()
        capture = torch.cuda.graph(graph, pool=self._pool, stream=self._main, capture_error_mode="thread_local")
        current, failed = torch.cuda.current_stream(self._device), None
        try:
            with _ONE_CAPTURE, capture:
                try:
                    work()
                except BaseException as error:
                    failed = error
                    raise
        except BaseException:
            # Where a capture cannot be ended torch leaves its stream the current one, and its pool open.
            torch.cuda.set_stream(current)
            _close(self._device, self._pool)
            if failed is not None:
                raise failed from None  # and says only that the capture has failed
            raise
        self._graphs.add(graph)
        self._last = ref(graph)
        replay: Callable[[], None] = graph.replay
        return replay

    def loop(self, engine: Any) -> Any:
        """A WHILE node around the step that was captured last (`keep_graph`). Raises where the driver has none."""
        return native_loop.WhileLoop(engine.state.prepared_advance, engine.state.rows, self._last().raw_cuda_graph())


def _close(device: torch.device, pool: Any) -> None:
    """Ends what the allocator does for a capture, if it still does."""
    index = torch.cuda.current_device() if device.index is None else device.index
    with suppress(AttributeError, RuntimeError):  # another torch; ended already
        torch._C._cuda_endAllocateToPool(index, pool)
