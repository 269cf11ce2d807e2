"""`torch.cuda.CUDAGraph` and `torch.cuda.graph` of the stand-in."""

from __future__ import annotations

import traceback
from typing import Any
from weakref import ReferenceType, WeakValueDictionary, ref

import torch

from python_tests.standin import runtime


class CUDAGraph:
    """A stand-in for `torch.cuda.CUDAGraph`."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._graph, self._keep = runtime.new_graph(), keep_graph
        self._capture: Any = None
        _live_graphs[self._graph] = self

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        users = [] if pool is None else _pools.setdefault(pool, [])
        if users and not any(user() for user in users):
            raise RuntimeError("use_count > 0: a pool whose graphs have all gone")  # torch's allocator asserts it
        users.append(ref(self))
        from python_tests.standin.capture import Capture  # imports the package, which imports torch

        self._capture = Capture(self._graph)
        self._capture.begin()

    def capture_end(self) -> None:
        self._capture.end()

    def replay(self) -> None:
        with torch._C.DisableTorchFunction(), torch.no_grad():
            self._capture.replay()

    def reset(self) -> None:
        self._capture = None
        runtime.drop(self._graph)

    def raw_cuda_graph(self) -> int:
        if not self._keep:
            raise RuntimeError("raw_cuda_graph: expected a graph with keep_graph=True")
        return self._graph

    def pool(self) -> Any:
        return (0, 1)

    def __del__(self, drop: Any = runtime.drop) -> None:
        drop(self._graph)


_live_graphs: WeakValueDictionary[int, CUDAGraph] = WeakValueDictionary()
_pools: dict[Any, list[ReferenceType[CUDAGraph]]] = {}


def _run(number: int) -> bool:
    """Replays a graph inside a WHILE loop, as its operators are recorded here. False where it fails."""
    graph = _live_graphs.get(number)
    if graph is None:
        return False
    try:
        graph.replay()
    except Exception:  # False makes the launch of the loop fail
        traceback.print_exc()
        return False
    return True


runtime.on_child(_run)


class graph:
    """A stand-in for `torch.cuda.graph`."""

    def __init__(self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global"):
        self._graph, self._pool, self._stream = cuda_graph, pool, torch.cuda.stream(stream or torch.cuda.Stream())

    def __enter__(self) -> None:
        self._stream.__enter__()
        self._graph.capture_begin(self._pool)

    def __exit__(self, *raised: Any) -> None:
        self._graph.capture_end()
        self._stream.__exit__(*raised)
