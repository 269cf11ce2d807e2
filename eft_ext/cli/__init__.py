"""The command line `eft` (also `python -m eft_ext`): one module for each command."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer

from eft_ext import _interrupt
from eft_ext._extras import MissingExtra, needs
from eft_ext._text import printable
from eft_ext._version import __version__
from eft_ext.cli import bench, chat, demo, dynamics, environment, generate, report, score
from eft_ext.cli.command import Command

app = typer.Typer(
    name="eft",
    help="Emulated fine-tuning: a large language model that behaves as if it had been tuned like a small one.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eft_ext {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


for module in (demo, generate, chat, score, report, bench, environment):
    app.command(module.NAME, cls=Command)(module.run)
app.add_typer(dynamics.app)


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or what the command returned; 2 on wrong input, and 1 on a missing extra, logits that cannot be sampled, or
        a fault of the program, each with one line on stderr; 130 when interrupted. EFT_DEBUG=1 in the environment
        shows the traceback too.
    """
    with warnings.catch_warnings(), _all_characters():
        warnings.showwarning = _one_line
        for kind in (FutureWarning, DeprecationWarning):  # of other packages, about each other
            warnings.simplefilter("ignore", kind)
        return _run(arguments)


@contextmanager
def _all_characters() -> Iterator[None]:
    """What the encoding of stdout lacks is printed as an escape: an answer is not lost for one character."""
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


def _run(arguments: list[str] | None) -> int:
    try:
        with _interrupt.unwinding(), needs("this command", "cli"):
            result = app(arguments, standalone_mode=False)
            sys.stdout.flush()
    except MissingExtra as error:
        return _say(error, 1)
    except (ValueError, OSError, ImportError) as error:
        return _unprinted(error)
    except SystemExit as error:
        # What typer and rich make of a broken pipe, with exit code 1.
        if isinstance(error.__context__, BrokenPipeError):
            return _unprinted(error.__context__)
        raise
    except RuntimeError as error:
        # typer's own exceptions of wrong usage are RuntimeErrors that know their message and exit code.
        code = getattr(error, "exit_code", 1)
        if type(error).__name__ == "Abort":
            return _say(_interrupt.SAID, _interrupt.CODE)
        return _say(error.format_message() if hasattr(error, "format_message") else error, code)
    except _interrupt.Interrupted as error:
        return _say(f"{_interrupt.SAID}; {error}" if str(error) else _interrupt.SAID, _interrupt.CODE)
    except Exception as error:
        if hasattr(error, "format_message"):  # of typer, in releases where they are no RuntimeErrors
            return _say(error.format_message(), getattr(error, "exit_code", 2))
        if isinstance(error, MemoryError):
            return _say("out of memory", 1)
        _traceback(error)
        return _say(f"{type(error).__name__}: {error} (EFT_DEBUG=1 shows where)", 1)
    if result == _interrupt.CODE:  # what newer typer makes of a KeyboardInterrupt, saying nothing
        return _say(_interrupt.SAID, result)
    return result if isinstance(result, int) else 0


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
    return _say(error, 2)


def _to_nowhere(descriptor: int) -> None:
    """Drops what a stream holds and could not write: Python would try again at its end, and say so."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _say(error: object, code: int) -> int:
    _traceback(error)
    said = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        said = f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    try:
        if said:  # the help that `eft` alone prints ends in an empty error
            print(f"eft: {' '.join(printable(said).split())}", file=sys.stderr)
    except OSError:
        _to_nowhere(2)
    return code


def _traceback(error: object) -> None:
    if isinstance(error, BaseException) and os.environ.get("EFT_DEBUG"):
        traceback.print_exception(error)


def _one_line(message: Warning | str, *where: object, **more: object) -> None:
    print(f"eft: warning: {' '.join(printable(message).split())}", file=sys.stderr)


__all__ = ["app", "main"]
