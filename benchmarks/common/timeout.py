"""Runs a command with a time limit, and ends it with all that it has started."""

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

GRACE_SECONDS = 2.0  # between SIGINT, SIGTERM and SIGKILL
KILL_SECONDS = 10.0  # for a killed process to end: in a driver it may never
MAX_OUTPUT = 2**20  # bytes of a command's output that are kept, from its start and its end


@dataclass(frozen=True)
class CommandResult:
    """The end of a command.

    Attributes:
        fault: the error in words; empty where it ended with 0.
        output: stdout and stderr, at most `MAX_OUTPUT` of them.
    """

    command: str
    seconds: float
    fault: str
    output: str


def run_with_timeout(
    command: Sequence[str], seconds: float, log: BinaryIO, *, cwd: Path, env: Mapping[str, str], shown: str
) -> CommandResult:
    """Runs a command and appends its output to `log`, opened with "a+b". `shown` stands for it in the result."""
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
    return CommandResult(shown, time.monotonic() - start, fault, _read_output(log, at))


def _fault(code: int) -> str:
    """Returns an exit code in words; a shell adds 128 to a signal's number."""
    number = -code if code < 0 else code - 128
    if number > 0:
        with suppress(ValueError):
            return f"crashed: {signal.Signals(number).name}"
    return f"exit code {code}" if code else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the whole process group: children may outlive the command. Interrupted, pytest still prints its summary."""
    for number, patience in (
        (signal.SIGINT, GRACE_SECONDS),
        (signal.SIGTERM, GRACE_SECONDS),
        (signal.SIGKILL, KILL_SECONDS),
    ):
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


def _read_output(log: BinaryIO, at: int) -> str:
    """Returns the output from `at` on; where it is too long its middle is dropped, in the log too."""
    log.seek(at)
    printed = log.read()
    if len(printed) > MAX_OUTPUT:
        printed = printed[: MAX_OUTPUT // 4] + b"\n[...]\n" + printed[-3 * MAX_OUTPUT // 4 :]
        log.truncate(at)
        log.write(printed)
    log.seek(0, os.SEEK_END)
    return printed.decode(errors="replace")
