"""Runs a command for so many seconds and no longer: it and all that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

GRACE = 2.0  # seconds between one request to end and the next, harder one
STUCK = 10.0  # seconds that a killed process may take to go: in a driver it may never
KEPT = 2**20  # bytes of a command's output: what came first and what came last


@dataclass(frozen=True)
class CommandResult:
    """How a command ended.

    Attributes:
        fault: what was wrong, for a person; empty where it ended with 0.
        output: what it printed, as far as it was kept.
    """

    command: str
    seconds: float
    fault: str
    output: str


def run_with_timeout(
    command: Sequence[str], seconds: float, log: BinaryIO, *, cwd: Path, env: Mapping[str, str], shown: str
) -> CommandResult:
    """Appends what the command prints to `log`, opened with "a+b", as it comes; `shown` is how it is written down."""
    start, at = time.monotonic(), log.seek(0, os.SEEK_END)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd, env=env, start_new_session=True
        )
    except OSError as error:
        return CommandResult(shown, 0.0, f"did not start: {error}", "")
    try:
        fault = _fault(process.wait(seconds))
    except subprocess.TimeoutExpired:
        fault = f"killed after {seconds:.0f} s"
    finally:
        _end(process)
    return CommandResult(shown, time.monotonic() - start, fault, _shorten(log, at))


def _fault(code: int) -> str:
    """In words; a shell adds 128 to a signal's number."""
    number = -code if code < 0 else code - 128
    if number > 0:
        with suppress(ValueError):
            return f"crashed: {signal.Signals(number).name}"
    return f"exit code {code}" if code else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole group: what a command has started may outlive it. Interrupted, pytest still says why tests failed."""
    for number, patience in ((signal.SIGINT, GRACE), (signal.SIGTERM, GRACE), (signal.SIGKILL, STUCK)):
        if process.returncode is not None and not _alive(process.pid):
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _shorten(log: BinaryIO, at: int) -> str:
    """What was printed from `at` on, cut out of the middle in the log too where there is too much of it."""
    log.seek(at)
    printed = log.read()
    if len(printed) > KEPT:
        printed = printed[: KEPT // 4] + b"\n[...]\n" + printed[-3 * KEPT // 4 :]
        log.truncate(at)
        log.write(printed)
    log.seek(0, os.SEEK_END)
    return printed.decode(errors="replace")
