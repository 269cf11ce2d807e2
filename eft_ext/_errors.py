"""Errors as one line on stderr and an exit code: of `eft`, and of the modules that `python -m` runs."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import NoReturn

from eft_ext import _interrupt
from eft_ext._extras import MissingExtra
from eft_ext._text import printable


@contextmanager
def one_line() -> Iterator[None]:
    """Ends the process where something goes wrong; warnings are one line too.

    Raises:
        SystemExit: with the exit code, the error having been said.
    """
    with console():
        try:
            with _interrupt.unwinding():
                yield
                sys.stdout.flush()
        except (Exception, _interrupt.Interrupted) as error:
            raise SystemExit(said(error)) from error


def command(module: str) -> AbstractContextManager[None]:
    """`one_line` where the module, by its `__name__`, is run by `python -m`; imported, its exceptions go through."""
    return one_line() if module == "__main__" else nullcontext()


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are a ValueError, for `one_line` to say."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


@contextmanager
def console() -> Iterator[None]:
    """Shows each warning as one line, and none that other packages have about each other.

    What the encoding of stdout lacks is printed as an escape: a result is not lost for one character.
    """
    with warnings.catch_warnings(), _all_characters():
        warnings.showwarning = _show
        for kind in (FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", kind)
        yield


@contextmanager
def _all_characters() -> Iterator[None]:
    if not isinstance(sys.stdout, io.TextIOWrapper):
        yield
        return
    before = sys.stdout.errors
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with suppress(OSError):  # it writes what is left, which a full disk refused before
            sys.stdout.reconfigure(errors=before)


def said(error: BaseException) -> int:
    """Says an error in one line, with its traceback under EFT_DEBUG=1.

    Returns:
        2 on wrong input; 1 on a missing extra, logits that cannot be sampled, or a fault of the program; 130 when
        interrupted; 0 where nobody reads what is printed any more.
    """
    if isinstance(error, (MissingExtra, RuntimeError)):
        return say(error, 1)
    if isinstance(error, (ValueError, OSError, ImportError)):
        return _unprinted(error)
    if isinstance(error, _interrupt.Interrupted):
        return say(f"{_interrupt.SAID}; {error}" if str(error) else _interrupt.SAID, _interrupt.CODE)
    if isinstance(error, MemoryError):
        return say("out of memory", 1)
    _traceback(error)
    return say(f"{type(error).__name__}: {error} (EFT_DEBUG=1 shows where)", 1)


def say(error: object, code: int) -> int:
    """Prints the line, and returns the code."""
    _traceback(error)
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    try:
        if text:  # the help that `eft` alone prints ends in an empty error
            print(f"eft: {' '.join(printable(text).split())}", file=sys.stderr)
    except OSError:
        _to_nowhere(2)
    return code


def _unprinted(error: Exception) -> int:
    """Says an error, unless it is that whoever read our output has enough, as `head` does."""
    try:
        sys.stdout.flush()
    except OSError as left:
        error = left
        _to_nowhere(1)
    if isinstance(error, BrokenPipeError):
        return 0
    # A full disk under stdout, the only file whose name Python does not know.
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG) and error.filename is None:
        error = OSError(error.errno, error.strerror, "stdout")
    return say(error, 2)


def _to_nowhere(descriptor: int) -> None:
    """Drops what a stream holds and could not write: Python would try again at its end, and say so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _traceback(error: object) -> None:
    if isinstance(error, BaseException) and os.environ.get("EFT_DEBUG"):
        traceback.print_exception(error)


def _show(message: Warning | str, *where: object, **more: object) -> None:
    print(f"eft: warning: {' '.join(printable(message).split())}", file=sys.stderr)
