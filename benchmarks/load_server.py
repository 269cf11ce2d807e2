"""Are a server's answers right under load and after kill -9, and how fast do its tokens come?

    python benchmarks/load_server.py --json benchmarks/results/load-cpu.json
    python benchmarks/load_server.py --part mixed --url http://127.0.0.1:8000

    mixed     64 requests at once by the official client: whole, streamed, given up, of a JSON schema, and bad, with own
              betas, beside a client that reads a long answer or never reads it; texts are compared with a plain loop's
    figures   times of streamed tokens: the trio, and its large, tuned and base models each alone in the same server
              program with the same options. The servers take turns; medians over passes. A pass is repeated, twice at
              most, if other processes use over 0.3 cores meanwhile
    faults    kill -9 of the engine, a restart and the rows that are missing; kill -9 of the server

The baseline is the large model alone. Beside it stands what three servers would cost: the CPU time of the three models'
engines, each alone, added. Servers listen on loopback and end with this command. A failed check gives exit status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.machine import describe
from engines import processes
from engines.engine import folders
from rich.console import Console
from transformers import AutoConfig

from eft_ext import _json
from eft_ext.demo import checkpoint_path

PARTS = ("mixed", "figures", "faults")
FLAGS = ("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}')
ALONE = ("large", "tuned", "base")


def loopback(url: str) -> str:
    """The URL of a server on this machine.

    Raises:
        argparse.ArgumentTypeError: it is on another one, or is no URL.
    """
    try:
        parts = urlsplit(url)
        host = str(parts.hostname)
        here = parts.scheme == "http" and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        here = False
    if not here:
        raise argparse.ArgumentTypeError(
            f"expected http:// and a host of loopback (127.0.0.1, ::1, localhost), got {url!r}"
        )
    return f"http://{parts.netloc}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=checkpoint_path(), help="a folder of eft pack with UpScale")
    parser.add_argument("--url", type=loopback, help="a server of it that runs already on this machine; not for faults")
    parser.add_argument("--part", nargs="+", choices=PARTS, help="run only these")
    parser.add_argument("--at-once", type=int, default=64, help="requests at once")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of mixed beside each of both clients")
    parser.add_argument("--new", type=int, default=48, help="new tokens of each request of figures")
    parser.add_argument("--passes", type=int, default=5, help="passes that each median is over")
    parser.add_argument("--seconds", type=float, default=900, help="time limit of the whole")
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    args.part = args.part or [part for part in PARTS if part != "faults" or not args.url]
    if lacks := processes.missing():
        print(lacks, file=sys.stderr)
        return 2
    if args.url and "faults" in args.part:
        parser.error("--part: expected none of faults beside --url, whose processes are not this command's")
    os.environ.update(processes.environment())
    found: dict[str, Any] = {"machine": describe(), "load_average": [os.getloadavg()[0]], "at_once": args.at_once}
    wrong: list[str] = []
    with ExitStack() as stack:
        try:
            asyncio.run(asyncio.wait_for(parts(args, found, stack), args.seconds))
        except asyncio.TimeoutError:
            wrong.append(f"not done after {args.seconds:.0f} s")
    from load import tables

    wrong += tables.wrong(found)
    found["load_average"].append(os.getloadavg()[0])
    if args.json:
        ratios = {count: tables.ratios(own) for count, own in found.get("figures", {}).items()}
        _json.write(args.json, {**found, "ratios": ratios, "wrong": wrong}, indent=1)
    for table in tables.show(found):
        Console(width=120).print(table)
    for line in wrong:
        print(line)
    return int(bool(wrong))


async def parts(args: argparse.Namespace, found: dict[str, Any], stack: ExitStack) -> None:
    """Runs the parts one after another and adds their results to `found`."""
    from load import faults, figures, mixed
    from load.asking import Target
    from load.reference import Loop

    from python_tests.helpers.vllm_server import Server

    logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    places = folders(args.checkpoint)
    loop = Loop(args.checkpoint, places)

    def start(name: str, folder: str | Path) -> Server:
        server = Server(folder, logs / f"{name}.log", "--max-num-seqs", str(args.at_once), *FLAGS)
        stack.callback(server.stop)
        return server

    server = None
    if args.url:
        target = Target(args.url, (await Target(args.url, "").client().models.list()).data[0].id)
    else:
        progress("starting the trio's server")
        server = await asyncio.to_thread(start("trio", args.checkpoint).ready)
        target = Target(server.url, "trio")
    if "mixed" in args.part:
        progress(f"mixed: {2 * args.rounds} rounds of {args.at_once} requests")
        found["mixed"] = await mixed.rounds(target, loop, args.at_once, args.rounds)
    if "figures" in args.part:
        targets = {"trio": (target, server and server.process.pid)}
        if server:
            progress("figures: starting large, tuned and base, each alone")
            others = {name: start(name, places[name]) for name in ALONE}
            for name, other in others.items():
                await asyncio.to_thread(other.ready)
                targets[name] = (Target(other.url, "trio"), other.process.pid)
        ids = figures.prompts(AutoConfig.from_pretrained(args.checkpoint).vocab_size, args.at_once)
        for count in sorted({min(8, args.at_once), args.at_once}):
            progress(f"figures: {args.passes} passes over {len(targets)} servers, {count} requests at once")
            own = await figures.turns(targets, ids[:count], args.new, args.passes)
            found.setdefault("figures", {})[str(count)] = own
        if server:
            for other in others.values():
                await asyncio.to_thread(other.stop)
    if server and "faults" in args.part:
        progress("faults: kill -9 of the engine, a restart, the missing rows")
        found["engine_killed"] = await faults.engine_killed(server, target, loop, logs)
        progress("faults: kill -9 of the server")
        found["server_killed"] = await faults.server_killed(server, target, logs)


def progress(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
