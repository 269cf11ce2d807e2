"""Is the CUDA step faster than its baselines on a GPU, and how far is it from its floor?

    make gpu-bench-step                                    # 160 points, under nine minutes
    python benchmarks/gpu_step.py --full --seconds 3600    # 360 points
    python benchmarks/gpu_step.py --vocab 128256 --batch 1 --options "top-p .9" --measure cuda
    python benchmarks/gpu_report.py benchmarks/results/step-gpu.json     # the table and the roofline

Cold and hot, eager and replayed. The baselines are transformers' chain, its compiled form and FlashInfer; a baseline
that cannot run is written down with its reason. The floor is one read of the inputs at the bandwidth of a
device-to-device copy in the same run. Tokens are compared with the CPU step's at small batches: a wrong step's figure
does not count.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from common import logit_rows
from common.optional import import_optional
from common.transformers_chain import transformers_chain
from gpu import peers, timing
from gpu.device import describe_gpu, missing_requirement
from gpu.grid import OPTIONS, Point, points
from rich.console import Console
from rich.progress import track
from torch import Tensor

from eft_ext import _json, fused_mix, fused_step
from eft_ext.ops.backends.registry import find

CHECKED_BATCH = 8
OURS = ("cuda", "triton")
MEASURED = (*OURS, "chain", "compiled", "flashinfer")


def make_sets(point: Point, count: int, device: str = "cuda") -> list[list[Tensor]]:
    """Returns `count` sets of K tensors [B, V] bf16 on the device, each with its own rows."""
    sets = []
    for i in range(count):
        generator = torch.Generator(device).manual_seed(1000 * i + point.batch)
        with torch.device(device):
            models = logit_rows.lm(point.batch, point.vocab, generator)[: point.models]
        sets.append([x.bfloat16() for x in models])
    return sets


def step_calls(sets: list[list[Tensor]], options: dict[str, float], backend: str, seeds: Any, position: Any) -> list:
    """Returns one step for each set, with tokens into a given tensor."""
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


def measurements(
    point: Point, wanted: Sequence[str]
) -> Iterator[tuple[str, Callable[[list[list[Tensor]]], dict[str, Any]]]]:
    """Yields names and functions of the sets of inputs that measure a point; ours first."""
    options = OPTIONS[point.options]
    for backend in OURS:
        if backend in wanted and (backend == "cuda" or find(backend).available):
            yield backend, lambda sets, backend=backend: measure_step(sets, point, backend)
    chain = transformers_chain(options)
    if "chain" in wanted:
        yield "chain", lambda sets: measure_peer(sets, chain)
    if "compiled" in wanted and point.headline:
        yield "compiled chain", lambda sets: measure_peer(sets, peers.compiled_chain(chain))
    if "flashinfer" not in wanted:
        return
    sampling, reason = import_optional("flashinfer.sampling")
    if sampling is None:
        yield "flashinfer", lambda sets: {"error": reason}
        return
    mixed = peers.combine if point.models == 1 else peers.compiled_combine()
    for name, path in peers.flashinfer_paths(sampling, options, mixed).items():
        yield f"flashinfer {name}", lambda sets, path=path: measure_peer(sets, path)


def faults_of(results: list[dict[str, Any]]) -> list[str]:
    """Returns the points where a step of ours failed, or drew other tokens than the CPU's."""
    found = []
    for result in results:
        at = f"V={result['vocab']} B={result['batch']} K={result['models']} {result['options']}"
        for name in OURS:
            times = result["times"].get(name, {})
            if "error" in times:
                found.append(f"{name} {at}: {times['error']}")
            elif times.get("same_tokens_as_cpu") is False:
                found.append(f"{name} {at}: other tokens than the CPU step's")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="360 points instead of 160")
    parser.add_argument("--vocab", type=int, nargs="+", default=(), help="instead of the grid's")
    parser.add_argument("--batch", type=int, nargs="+", default=(), help="instead of the grid's")
    parser.add_argument("--options", nargs="+", choices=list(OPTIONS), default=(), help="only these")
    parser.add_argument("--models", type=int, nargs="+", default=(), help="only these K")
    parser.add_argument("--measure", nargs="+", choices=MEASURED, default=MEASURED, help="only these")
    parser.add_argument(
        "--seconds", type=float, default=480, help="points that have not begun by then are left out and counted"
    )
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/step-gpu.json"))
    args = parser.parse_args()
    if missing := missing_requirement():
        print(f"gpu_step: not run, it needs {missing}", file=sys.stderr)
        return 2

    wanted = points(args.full, args.vocab, args.batch, args.options, args.models)
    stop = time.monotonic() + args.seconds
    machine, bandwidth, l2 = describe_gpu(), timing.copy_bytes_per_us(), timing.l2_bytes()
    results: list[dict[str, Any]] = []
    args.json.parent.mkdir(parents=True, exist_ok=True)
    for point in track(wanted, "measuring", console=Console(stderr=True)):
        if time.monotonic() > stop:
            break
        sets = make_sets(point, timing.sets_beyond_l2(point.bytes, l2))
        times: dict[str, Any] = {}
        results.append({**point.record(), "floor_us": point.bytes / bandwidth, "times": times})
        for name, measured in measurements(point, args.measure):
            if times and time.monotonic() > stop:
                times[name] = {"error": "not begun in the time given"}
                continue
            times[name] = attempt(measured, sets)
            found = {"machine": machine, "copy_bytes_per_us": bandwidth, "wanted": len(wanted), "results": results}
            # Each time: a run that is stopped leaves what it has.
            _json.write(args.json, found, indent=1)
    left = len(wanted) - len(results)
    print(f"{args.json}: {len(results)} points" + (f", {left} left out after {args.seconds:g} s" if left else ""))
    faults = faults_of(results)
    for fault in faults:
        print(f"gpu_step: {fault}", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
