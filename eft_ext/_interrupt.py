"""Ctrl-C on the command line: one line on stderr and exit code 130.

An exception is not enough while modules are being imported. Python makes a KeyboardInterrupt in a `__set_name__` (of an
Enum, say) a RuntimeError, extension modules make it an ImportError, and transformers makes either "Could not import
module ..."; or it is swallowed with an import that was tried only. So there the process ends at once.

Nor does a handler run while the main thread is in one long call of C++, as over a long text: another thread ends that.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SAID = "interrupted"
CODE = 128 + signal.SIGINT  # as shells have it

PATIENCE = 1.0  # seconds that a call of C++ may still take

_unwinds = _came = False
_handled = 0


class Interrupted(BaseException):
    """Ctrl-C while a command runs; its text, if any, says how to go on.

    No KeyboardInterrupt, of which typer makes other things, by its version.
    """


def watch() -> None:
    """Take Ctrl-C, unless somebody else does or it is to be ignored, as under nohup. For a process of our own."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)


def leave() -> None:
    """Leave Ctrl-C to a server that runs from here on, which stops gracefully in its own time."""
    if signal.getsignal(signal.SIGINT) is _handle:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command_line() -> bool:
    """True where this process is `eft` or `python -m` of a module here, on the way to its first line."""
    arguments = getattr(sys, "argv", None) or [""]  # none where Python is embedded
    if arguments[0] == "-m":  # stands for the module's name while that is looked for
        return sys.orig_argv[-len(arguments)].partition(".")[0] == "eft_ext"
    return os.path.basename(arguments[0]) in ("eft", "eft.exe")


@contextmanager
def unwinding() -> Iterator[None]:
    """While a command runs the first Ctrl-C raises Interrupted, so that progress bars close; the next ends at once.

    Interrupted also leaves here where it was made something else on its way.
    """
    global _unwinds, _came
    _unwinds, _came = True, False
    try:
        with _heard():
            yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or (_came and not isinstance(error, Interrupted)):
            raise Interrupted from error
        raise
    finally:
        _unwinds = False


@contextmanager
def _heard() -> Iterator[None]:
    """Ends the process where a Ctrl-C is not handled within `PATIENCE`, if it is ours to handle."""
    if signal.getsignal(signal.SIGINT) is not _handle:
        yield
        return
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    threading.Thread(target=_listen, args=(reads,), daemon=True).start()
    before = signal.set_wakeup_fd(writes)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writes)


def _listen(reads: int) -> None:
    """Reads the number of each signal as it comes, whatever the main thread is doing, until the pipe is closed."""
    heard = _handled
    with open(reads, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            if number[0] == signal.SIGINT:
                heard += 1
                time.sleep(PATIENCE)
                if _handled < heard:
                    _end()


def _end() -> None:
    with suppress(OSError):
        os.write(2, f"eft: {SAID}\n".encode())
    os._exit(CODE)


def _handle(number: int, frame: FrameType | None) -> None:
    global _unwinds, _came, _handled
    _handled += 1
    if not _unwinds or _importing(frame):
        _end()
    _unwinds, _came = False, True
    raise Interrupted


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False


if _is_command_line():  # torch comes next, before `main` can ask for it, and takes seconds
    watch()
