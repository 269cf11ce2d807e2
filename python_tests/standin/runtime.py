"""The launch code on the fake CUDA runtime (`csrc/emulator/runtime`), loaded in place of the package's libeft.

EFT_HOSTCUDA: the folder of `csrc/emulator` in a build, as `make test` leaves it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

STREAM = 0x5EED0


class ThreadState(threading.local):
    """The stream of a thread's launches, and the graph that they go into."""

    stream, capture = STREAM, 0


thread_state = ThreadState()


def path() -> Path:
    built = os.environ.get("EFT_HOSTCUDA", Path(__file__).parents[2] / "build" / "ctest" / "csrc" / "emulator")
    return Path(built) / "launch" / "libeft.so"


_library = ctypes.CDLL(str(path()))  # before the package's module, which then finds that a libeft.so is there
_library.eft_runtime_begin.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_int]
_library.eft_runtime_stream.argtypes = [ctypes.c_uint64, ctypes.c_int]
_library.eft_runtime_run.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_library.eft_runtime_size.restype = ctypes.c_int64
_library.eft_runtime_faults.restype = ctypes.c_char_p
_library.eft_runtime_begin(0, STREAM, 0)
ChildRunner = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
_child_runner: Any = None

new_graph, drop, size, run = (getattr(_library, f"eft_runtime_{name}") for name in ("graph", "drop", "size", "run"))


def use_stream(stream: int) -> None:
    """Sets the stream that launches of this thread must use from now on."""
    thread_state.stream = stream
    _library.eft_runtime_stream(stream, thread_state.capture)


def capture_into(graph: int) -> None:
    """Sets the graph that launches of this thread go into; 0: they run at once."""
    thread_state.capture = graph
    _library.eft_runtime_stream(thread_state.stream, graph)


def capturing() -> bool:
    return thread_state.capture != 0


def on_child(run: Callable[[int], bool]) -> None:
    """Sets the function that replays a graph inside a WHILE loop; it returns False where it fails."""
    global _child_runner
    _child_runner = ChildRunner(run)  # kept for as long as the library may call it
    _library.eft_runtime_on_child(_child_runner)


def check() -> None:
    """Raises RuntimeError with the faults found since the last check."""
    faults = _library.eft_runtime_faults().decode()
    if faults:
        raise RuntimeError(f"CUDA error (stand-in): {faults.strip()}")
