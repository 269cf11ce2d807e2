"""kill -9 of a server's engine and of the server itself, with requests in flight, and rows that stay."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from openai import AsyncOpenAI

from load.asking import Target, seconds_until, text
from load.reference import Loop
from load.requests import Request, plain
from load.rows import Rows
from python_tests.helpers.vllm_server import Server

ROWS, AT_ONCE = 40, 16  # every prompt at every beta
RESTART = 240.0  # seconds for a client to try again
LEFT = 15.0  # seconds for a server, and then for its processes, to end
NAIVE = 10  # rows that are compared with the plain loop too


class Run:
    """Asks for the missing rows of a file.

    Attributes:
        flying: rows that were sent and have no answer yet.
        failed: when and by which error the others failed.
    """

    def __init__(self, target: Target, rows: Rows, requests: list[Request]) -> None:
        self.target, self.rows, self.requests = target, rows, requests
        self.flying: set[int] = set()
        self.failed: dict[int, tuple[float, str]] = {}
        self.asked = rows.missing(range(len(requests)))

    async def fill(self, patience: float = 0.0) -> None:
        """Writes each answer as it comes. A request that fails is sent again for `patience` seconds."""
        gate, until = asyncio.Semaphore(AT_ONCE), time.monotonic() + patience
        async with self.target.client() as client:
            await asyncio.gather(*(self._one(client, gate, until, row) for row in self.asked))

    async def _one(self, client: AsyncOpenAI, gate: asyncio.Semaphore, until: float, row: int) -> None:
        async with gate:
            while True:
                self.flying.add(row)
                try:
                    self.rows.add(row, await text(client, self.target.model, self.requests[row]))
                    return
                except Exception as error:  # the server may fail in any way; the row stays missing
                    self.failed[row] = (time.monotonic(), type(error).__name__)
                finally:
                    self.flying.discard(row)
                if time.monotonic() > until:
                    return
                await asyncio.sleep(0.5)


async def engine_killed(server: Server, target: Target, loop: Loop, folder: Path) -> dict[str, Any]:
    """Kills the engine amid the rows, starts the server again, and asks for the rows that are missing."""
    requests = [plain(row, ("whole", "streamed")[row % 2], 40) for row in range(ROWS)]
    undisturbed = Run(target, Rows(folder / "undisturbed.jsonl"), requests)
    await undisturbed.fill()
    path = folder / "rows.jsonl"
    first = Run(target, Rows(path), requests)
    task = asyncio.create_task(first.fill())
    await seconds_until(lambda: len(first.rows.texts) >= ROWS // 4, 60)
    flying, killed = set(first.flying), time.monotonic()
    processes = _family(server.engine())
    processes[0].kill()
    await asyncio.wait({task}, timeout=30)
    found: dict[str, Any] = {"rows": ROWS, "hung": len(first.flying), **_failures(first, flying, killed)}
    found |= await _ended(server, processes, killed)
    first.rows.close()
    with path.open("ab") as out:
        out.write(b'{"row": 3, "te')  # as a client leaves it that is killed too
    second = Run(target, Rows(path), requests)
    found |= {"finished": len(first.rows.texts), "missing": len(second.asked)}
    start, task = time.monotonic(), asyncio.create_task(second.fill(RESTART))
    server.begin()
    await asyncio.to_thread(server.ready)
    found["restart_s"] = time.monotonic() - start
    await task
    second.rows.close()
    lines, texts = path.read_bytes().count(b"\n"), Rows(path).texts
    found |= {"lines": lines, "equal": sum(texts.get(row) == undisturbed.rows.texts.get(row) for row in range(ROWS))}
    found["naive"] = NAIVE
    found["naive_equal"] = sum(texts.get(row) == loop.text(requests[row]) for row in range(0, ROWS, ROWS // NAIVE))
    return found


async def server_killed(server: Server, target: Target, folder: Path) -> dict[str, Any]:
    """Kills the server, not its engine: seconds until the requests in flight fail and the engine's processes end."""
    requests = [Request("stream closed" if row % 2 else "whole closed", "A", row / 4) for row in range(AT_ONCE)]
    run = Run(target, Rows(folder / "killed.jsonl"), requests)
    task = asyncio.create_task(run.fill())
    await seconds_until(lambda: target.slots() == AT_ONCE, 30)
    processes = _family(server.engine())
    flying, killed = set(run.flying), time.monotonic()
    server.process.kill()
    await asyncio.wait({task}, timeout=30)
    return {
        "hung": len(run.flying),
        **_failures(run, flying, killed),
        **await _ended(server, processes, killed),
    }


def _family(engine: psutil.Process) -> list[psutil.Process]:
    """An engine's process and those that it has started."""
    return [engine, *engine.children(recursive=True)]


async def _ended(server: Server, processes: list[psutil.Process], killed: float) -> dict[str, Any]:
    """Seconds after a kill until the server and all its processes are gone, and the server's exit status."""
    await seconds_until(lambda: server.process.poll() is not None, LEFT)
    ended = time.monotonic() - killed
    orphans = await seconds_until(lambda: not any(map(_runs, processes)), LEFT)
    gone = None if orphans is None else time.monotonic() - killed
    return {"exit_status": server.process.poll(), "exit_s": ended, "processes_gone_s": gone}


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _failures(run: Run, flying: set[int], killed: float) -> dict[str, Any]:
    """Ends of the requests that were in flight at a kill, and how many came later and were refused."""
    failed = [run.failed[row] for row in flying if row in run.failed]
    return {
        "in_flight": len(flying),
        "in_flight_failed": len(failed),
        "last_failed_s": max((when - killed for when, _ in failed), default=0.0),
        "errors": Counter(name for _, name in failed),
        "refused": len(run.failed.keys() - flying),
    }
