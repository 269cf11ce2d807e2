"""The launch code on the host (`csrc/emulator/runtime`) in the place of the package's libeft.

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


class Own(threading.local):
    """The state of one thread: the place of its launches, and the graph that they go into."""

    stream, capture = STREAM, 0


own = Own()


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
Child = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
_child: Any = None

new_graph, drop, size, run = (getattr(_library, f"eft_runtime_{name}") for name in ("graph", "drop", "size", "run"))


def use_stream(stream: int) -> None:
    """Launches of this thread have to come on it from now on."""
    own.stream = stream
    _library.eft_runtime_stream(stream, own.capture)


def capture_into(graph: int) -> None:
    """Launches of this thread go into this graph; 0: they run at once."""
    own.capture = graph
    _library.eft_runtime_stream(own.stream, graph)


def capturing() -> bool:
    return own.capture != 0


def on_child(run: Callable[[int], bool]) -> None:
    """Runs a graph that is a part of a loop; False where that is not possible."""
    global _child
    _child = Child(run)  # for as long as the library may call it
    _library.eft_runtime_on_child(_child)


def check() -> None:
    """RuntimeError with what a device would not have taken since the last check."""
    faults = _library.eft_runtime_faults().decode()
    if faults:
        raise RuntimeError(f"CUDA error (stand-in): {faults.strip()}")
