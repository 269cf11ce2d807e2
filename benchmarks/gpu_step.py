"""The CUDA step beside its peers and its floor, on one GPU: cold and hot, eager and replayed.

    make gpu-bench-step                                  # 160 points, under nine minutes
    python benchmarks/gpu_step.py --full --minutes 60    # 360 points
    python benchmarks/gpu_step.py --vocab 128256 --batch 1 --options "top-p .9" --no-peers
    python benchmarks/gpu_report.py benchmarks/results/step-gpu.json     # the table and the roofline

The floor is one read of the inputs at the bandwidth of a device-to-device copy in the same run. Tokens are compared
with the CPU step's at small batches: a figure of a wrong step is none. What a peer cannot do is written down with its
reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import gpu_peers as peers
import gpu_timing as timing
import rows
import torch
from gpu_grid import OPTIONS, Point, points
from gpu_ready import missing
from rich.console import Console
from rich.progress import track
from torch import Tensor

import eft_ext
from eft_ext import fused_mix, fused_step

CHECKED_BATCH = 8


def describe_gpu() -> dict[str, Any]:
    from machine import describe

    query = "driver_version,clocks.max.sm,clocks.max.mem,power.limit,memory.total"
    line = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={torch.cuda.current_device()}"]
    try:
        values = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip().split(", ")
    except (OSError, subprocess.CalledProcessError) as error:
        values = [f"nvidia-smi: {error}"] * len(query.split(","))
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        **describe(),
        **dict(zip(query.split(","), values, strict=True)),
        "cuda": torch.version.cuda,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "compute_capability": f"{properties.major}.{properties.minor}",
    }


def make_sets(point: Point, count: int, device: str = "cuda") -> list[list[Tensor]]:
    """`count` sets of K tensors [B, V] bf16 on the device, each with rows of its own."""
    sets = []
    for i in range(count):
        generator = torch.Generator(device).manual_seed(1000 * i + point.batch)
        with torch.device(device):
            models = rows.lm(point.batch, point.vocab, generator)[: point.models]
        sets.append([x.bfloat16() for x in models])
    return sets


def step_calls(sets: list[list[Tensor]], options: dict[str, float], backend: str, seeds: Any, position: Any) -> list:
    """One step for each set, tokens into a given tensor."""
    out = torch.empty(sets[0][0].shape[0], dtype=torch.int64, device=sets[0][0].device)
    common = {"seed": seeds, "position": position, "out": out, "backend": backend, **options}
    if len(sets[0]) == 1:
        return [lambda x=x: fused_mix(x, [1.0], **common) for x in sets]
    return [lambda x=x: fused_step(*x, **common) for x in sets]


def same_tokens(logits: list[Tensor], options: dict[str, float], backend: str) -> bool:
    ours = step_calls([logits], options, backend, 1, 0)[0]().cpu()
    return torch.equal(ours, step_calls([[x.cpu() for x in logits]], options, "cpu", 1, 0)[0]())


def measure_step(sets: list[list[Tensor]], point: Point, backend: str) -> dict[str, Any]:
    options = OPTIONS[point.options]
    found: dict[str, Any] = {}
    if point.batch <= CHECKED_BATCH:
        found["same_tokens_as_cpu"] = same_tokens(sets[0], options, backend)
    device = sets[0][0].device
    position = torch.zeros(point.batch, dtype=torch.int64, device=device)
    seeds = torch.arange(point.batch, device=device)
    captured = step_calls(sets, options, backend, seeds, position)
    eager = step_calls(sets, options, backend, 1, 0)
    return found | {
        "graph_cold_us": timing.graph_us(captured),
        "graph_hot_us": timing.graph_us(captured[:1]),
        "eager_cold_us": timing.eager_us(eager),
        "host_us": timing.host_us(eager),
    }


def measure_peer(sets: list[list[Tensor]], peer: peers.Peer) -> dict[str, Any]:
    calls = [lambda x=x: peer(*x) for x in sets]
    found = {"eager_cold_us": timing.eager_us(calls)}
    try:
        found["graph_cold_us"] = timing.graph_us(calls)
        found["graph_hot_us"] = timing.graph_us(calls[:1])
    except Exception as error:  # not every peer can be captured
        torch.cuda.synchronize()
        found["graph_error"] = first_line(error)
    return found


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def attempt(measure: Any, *arguments: Any) -> dict[str, Any]:
    try:
        return measure(*arguments)
    except Exception as error:
        return {"error": first_line(error)}


def measure(point: Point, l2: int, others: bool) -> dict[str, Any]:
    sets = make_sets(point, timing.sets_beyond_l2(point.bytes, l2))
    times: dict[str, dict[str, Any]] = {"cuda": attempt(measure_step, sets, point, "cuda")}
    if not others:
        return times
    if eft_ext.backends()["triton"].available:
        times["triton"] = attempt(measure_step, sets, point, "triton")
    chain, reason = peers.importable("chain")
    options = OPTIONS[point.options]
    if chain is None:
        times["chain"] = {"error": reason}
    else:
        times["chain"] = attempt(measure_peer, sets, chain.transformers_chain(options))
        if point.headline:
            times["compiled chain"] = attempt(
                lambda: measure_peer(sets, peers.compiled_chain(chain.transformers_chain(options)))
            )
    sampling, reason = peers.importable("flashinfer.sampling")
    if sampling is None:
        times["flashinfer"] = {"error": reason}
    else:
        mixed = peers.combine if point.models == 1 else peers.compiled_combine()
        for name, path in peers.flashinfer_paths(sampling, options, mixed).items():
            times[f"flashinfer {name}"] = attempt(measure_peer, sets, path)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="360 points instead of 160")
    parser.add_argument("--vocab", type=int, nargs="+", help="only these")
    parser.add_argument("--batch", type=int, nargs="+", help="only these")
    parser.add_argument("--options", nargs="+", choices=list(OPTIONS), help="only these")
    parser.add_argument("--models", type=int, nargs="+", help="only these K")
    parser.add_argument("--no-peers", action="store_true", help="the CUDA step alone")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="points beyond this time are left out, and said to be"
    )
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/step-gpu.json"))
    args = parser.parse_args()
    if lacks := missing():
        print(f"gpu_step: not run, it needs {lacks}", file=sys.stderr)
        return 2

    wanted = [
        p
        for p in points(args.full)
        if all(
            not only or value in only
            for only, value in (
                (args.vocab, p.vocab),
                (args.batch, p.batch),
                (args.options, p.options),
                (args.models, p.models),
            )
        )
    ]
    stop = time.monotonic() + 60 * args.minutes
    machine, bandwidth, l2 = describe_gpu(), timing.copy_bytes_per_us(), timing.l2_bytes()
    results: list[dict[str, Any]] = []
    for point in track(wanted, "measuring", console=Console(stderr=True)):
        if time.monotonic() > stop:
            break
        times = measure(point, l2, not args.no_peers)
        results.append({**point.record(), "floor_us": point.bytes / bandwidth, "times": times})
        args.json.parent.mkdir(parents=True, exist_ok=True)
        found = {"machine": machine, "copy_bytes_per_us": bandwidth, "wanted": len(wanted), "results": results}
        args.json.write_text(json.dumps(found, indent=1) + "\n")  # each time: a run that is stopped leaves what it has
    left = len(wanted) - len(results)
    print(f"{args.json}: {len(results)} points" + (f", {left} left out after {args.minutes:g} minutes" if left else ""))
    ours = [r["times"]["cuda"] for r in results]
    wrong = sum("error" in t or t.get("same_tokens_as_cpu") is False for t in ours)
    if wrong:
        print(
            f"gpu_step: the CUDA step failed, or drew other tokens than the CPU step, at {wrong} points",
            file=sys.stderr,
        )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
