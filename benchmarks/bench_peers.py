"""Do three models as one cost more than the large one alone, and less than the loops that others have published?

    python benchmarks/bench_peers.py                                  # results/peers-cpu.json, docs/images/price.png
    python benchmarks/bench_peers.py --part controlled --batch 1      # a part of the grid
    python benchmarks/bench_peers.py --part realistic --replace       # again, in the same results and image
    python benchmarks/bench_peers.py --device cuda --trios 1B 8B --json peers-gpu.json

Baselines: the large model alone by transformers' `generate`, from a dynamic and from a static cache, and plain loops
after the structure of proxy-tuning, emulated disalignment and language model arithmetic (peers/loops.py). The last can
draft too; its loop here does not. Nothing is compiled: torch.compile on a CPU takes minutes of a C++ compiler before
the first token. On a GPU a compiled static cache would be faster than the one here.
Floor: the weights of a step over the read bandwidth measured in the same run. Keys and values are not counted, nor are
drafts, with which one reading of the large model serves several tokens: they may pass the floor.

First call: 16 new tokens in a fresh process that has built the models. Later calls: whole ones, prompt included, once
what is traced after 64 passes is traced; medians over rounds in which all take turns. Decoding is greedy. The first 32
tokens of all are compared before they are timed: the run ends with 1 where they differ.

"realistic" is a trio of unrelated random models, so no draft is accepted: there "auto" must not lose.
In "controlled" the large model costs 3 or 9 small ones, and about nine drafts in ten are accepted.
With one thread, times are CPU time: other load on the machine does not count. Wall time stands beside it in the JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common.checkout import ROOT
from common.machine import describe
from common.trios import TRIOS
from common.trios import load as load_trio
from peers.cells import HEAVY, Cell, DifferentTokens, add_floor, measure
from peers.clock import Clock
from peers.contenders import FEW, NAMES
from peers.figures import in_short, plot, show
from peers.first_calls import print_first_calls
from peers.floor import bytes_a_token, read_bandwidth
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from speculate.synthetic_trio import build_pair, perturb

from eft_ext import _json
from eft_ext.hf.generation import kept_costs

CONTROLLED = {"controlled 3": (4, 10, 0.05), "controlled 9": (2, 24, 0.05)}  # layers, extra ones, noise
PARTS = {"realistic": ["realistic"], "controlled": list(CONTROLLED), "all": [*CONTROLLED, "realistic"]}
GRID = [(1, 32), (8, 32), (1, 512), (32, 32), (8, 512), (32, 512)]  # the dearest last: time may be over
QUICK = {"controlled": (1, 2), "prompt": 32, "new": 16}
JSON = ROOT / "benchmarks" / "results" / "peers-cpu.json"
IMAGE = ROOT / "docs" / "images" / "price.png"


def load(name: str, args: argparse.Namespace, device: str) -> list[Any]:
    """Returns large, tuned and base; on device "meta" to count their bytes."""
    torch.manual_seed(0)
    if name not in CONTROLLED:
        quick = args.quick and name == "realistic"
        return load_trio("tiny" if quick else name, getattr(torch, args.dtype), device)
    layers, extra, noise = CONTROLLED[name]
    size: dict[str, Any] = {}
    if args.quick:
        (layers, extra), size = QUICK["controlled"], {"hidden": 64, "vocab": 512}
    large, small = build_pair(layers, extra, **size)
    base = build_pair(layers, 0, **size)[1]
    base.load_state_dict(small.state_dict())
    perturb(large, small, noise)
    return [model.to(device, getattr(torch, args.dtype)) for model in (large, small, base)]


def cells(name: str, args: argparse.Namespace) -> list[Cell]:
    """Returns the cells of a trio. Without --batch and --prompt the dearest ones are left to `realistic`."""
    if args.quick:
        return [Cell(1, QUICK["prompt"], QUICK["new"])]
    chosen = [(b, p) for b, p in GRID if name not in CONTROLLED or b * p <= 512]
    if args.device == "cuda":
        chosen = [(1, 32), (8, 32)]
    if args.batch or args.prompt:
        chosen = [(b, p) for p in args.prompt or (32, 512) for b in args.batch or (1, 8, 32)]
    return [Cell(b, p, args.tokens or (64 if b * p < HEAVY else 16)) for b, p in chosen]


def names(cell: Cell, args: argparse.Namespace) -> list[str]:
    return args.contenders or list(NAMES if cell.rows * cell.prompt < HEAVY else FEW)


def first_calls(name: str, grid: list[Cell], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs this script as a child: one that forks for each call on a CPU, one for each call on a GPU."""
    light = [c for c in grid if c.rows * c.prompt < HEAVY]  # a heavy cell's first call is its prompt
    wanted = args.contenders or list(NAMES)
    found: list[dict[str, Any]] = []
    groups = [(light, wanted)] if args.device == "cpu" else [([c], [n]) for c in light for n in wanted]
    for some, group in groups if light else []:
        words: list[object] = [sys.executable, __file__, "--first", *(f"{c.rows}x{c.prompt}x{c.new}" for c in some)]
        words += ["--trios", name, "--device", args.device, "--dtype", args.dtype, "--threads", args.threads]
        words += ["--contenders", *group] + ["--quick"] * args.quick + ["--sample"] * args.sample
        done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, text=True, check=False)
        found += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return found


def too_large(name: str, args: argparse.Namespace) -> str:
    """Returns why a trio cannot be held on the device; empty where it can."""
    if args.device == "cpu":
        return ""
    wanted, free = 1.3 * bytes_a_token(load(name, args, "meta")) + 4e9, torch.cuda.mem_get_info()[0]
    return "" if wanted < free else f"{name}: wants {wanted / 1e9:.0f} GB, {free / 1e9:.0f} are free"


def earlier(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the cells of an earlier run that this one completes."""
    found: list[dict[str, Any]] = json.loads(args.json.read_text())["results"] if args.replace else []
    return found


def replaced(results: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the results with `new` in place of the same cell, or behind them."""
    cells = {(r["trio"], r["rows"], r["prompt"]): r for r in [*results, new]}
    return list(cells.values())


def run(args: argparse.Namespace, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    """Measures cell by cell, and writes all there is after each."""
    stop, clock, left_out = time.monotonic() + args.seconds, Clock(args.device, args.threads), list[str]()
    grid = {name: cells(name, args) for name in args.trios}
    left = sum(map(len, grid.values()))
    bandwidth, machine = read_bandwidth(clock), describe()
    found = {"machine": machine, "clock": clock.name, "sampled": args.sample, "quick": args.quick,
             "bandwidth_bytes_per_s": bandwidth, "left_out": left_out, "results": earlier(args)}  # fmt: skip
    task = progress.add_task("", total=left)
    for name, chosen in grid.items():
        if why := too_large(name, args):
            left_out.append(why)
            continue
        progress.update(task, description=f"{name}: first calls")
        skipped = args.skip_first or (args.quick and left < len(grid))
        firsts = [] if skipped else first_calls(name, chosen, args)
        models = load(name, args, args.device)
        for cell in chosen:
            seconds = (stop - time.monotonic()) / left
            left -= 1
            at = f"{name} B={cell.rows} prompt {cell.prompt}"
            if seconds <= 0:
                left_out.append(f"{at}: no time was left")
                continue
            limits = {"rounds": args.rounds, "seconds": seconds}
            said = lambda what, at=at: progress.update(task, description=f"{at}: {what}")  # noqa: E731
            result = {"trio": name, "commit": machine["commit"]}
            result |= measure(models, cell, names(cell, args), args.sample, clock, limits, said)
            add_floor(result, bandwidth)
            for first in firsts:
                if (first["rows"], first["prompt"]) == (cell.rows, cell.prompt):
                    result["contenders"][first["name"]] |= {k: first[k] for k in first if k.startswith("first_call")}
            found["results"] = replaced(found["results"], result)
            print(in_short(result), flush=True)  # at once: a run may be stopped
            progress.advance(task)
            if args.json:
                args.json.parent.mkdir(parents=True, exist_ok=True)
                _json.write(args.json, found, indent=1)
        del models
    return found, left_out


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), default="all")
    parser.add_argument("--trios", nargs="+", choices=[*CONTROLLED, *TRIOS], help="instead of a part")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="float32 on the CPU, bfloat16 on cuda")
    parser.add_argument("--batch", type=int, nargs="+", help="rows; with --prompt all pairs")
    parser.add_argument("--prompt", type=int, nargs="+", help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, help="new tokens of a later call: 64, or 16 where prompts are dear")
    parser.add_argument("--contenders", nargs="+", choices=NAMES, help="all, or few where prompts are dear")
    parser.add_argument("--sample", action="store_true", help="T .7, top-p .9 instead of greedy")
    parser.add_argument("--rounds", type=int, default=5, help="at most; fewer where a cell's share of time is over")
    parser.add_argument("--seconds", type=float, default=840, help="no round begins after this time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip-first", action="store_true", help="no first calls")
    parser.add_argument("--quick", action="store_true", help="one tiny cell of each trio: for tests, no measurement")
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    parser.add_argument("--replace", action="store_true", help="keep what --json holds of other cells")
    parser.add_argument("--image", type=Path, help="draw B = 1 and 8 here")
    parser.add_argument("--first", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")
    args.rounds = 1 if args.quick else args.rounds
    whole = not (args.quick or args.trios or args.batch or args.prompt or args.contenders or args.sample)
    if args.device == "cpu" and ((whole and args.part == "all") or (args.replace and not args.quick)):
        args.json, args.image = args.json or JSON, args.image or IMAGE
    if args.replace:
        if not (args.json and args.json.is_file()):
            parser.error(f"--replace: expected results at --json, got {args.json}")
        kept = json.loads(args.json.read_text())
        if (kept["machine"]["threads"], kept["sampled"], kept["quick"]) != (args.threads, args.sample, args.quick):
            parser.error(f"--replace: {args.json} was measured under other --threads, --sample or --quick")
    args.trios = args.trios or (["1B", "8B"] if args.device == "cuda" else PARTS[args.part])
    return args


def main() -> int:
    args = parsed()
    os.environ[kept_costs.FILE] = ""  # "auto" begins from nothing in each process
    torch.set_num_threads(1 if args.first else args.threads)
    if args.first:
        chosen = [Cell(*map(int, cell.split("x"))) for cell in args.first]
        models = load(args.trios[0], args, args.device)
        seconds = 0.0 if args.quick else 20.0
        print_first_calls(models, chosen, args.contenders, args.sample, Clock(args.device, args.threads), seconds)
        return 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            found, left_out = run(args, progress)
    except DifferentTokens as error:
        print(f"bench_peers: tokens differ: {error}", file=sys.stderr)
        return 1
    show(found)
    for line in left_out:
        print(f"left out: {line}")
    if args.image and found["results"]:
        plot(found, args.image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
