"""Does a CUDA kernel wait for many barriers and round trips to memory?

    python benchmarks/cuda_counts.py
    python benchmarks/cuda_counts.py --rows lm --json counts.json
    python benchmarks/cuda_counts.py --against counts.json            # of another checkout: before → now

Needs no GPU: csrc/emulator runs the kernels and counts along the longest path of each launch, summed over launches.
Where a row has a ticket, from it on: the finish alone; else (resident) from the start. Bytes are those of 16-byte loads
over the inputs'; the floor is 1. One call (V = 128256, K = 3, bf16, one row), the median of three rows. Waits are the
counts times NANOSECONDS, which are estimates for an H100. Nothing is timed.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import logit_rows
from common.machine import describe
from torch import Tensor

from eft_ext import _json, fused_score, fused_step, fused_verify
from python_tests.helpers import rows
from python_tests.helpers.host_cuda import HostCuda, Launch, library

VOCAB, SAMPLES, DRAFTS = 128256, 3, 4
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "T .7": {"temperature": 0.7},
    "top-p .9": {"top_p": 0.9},
    "T .7, top-p .9": {"temperature": 0.7, "top_p": 0.9},
    "top-k 50, top-p .9": {"top_k": 50, "top_p": 0.9},
    "min-p .05": {"min_p": 0.05},
    "top-p .99": {"top_p": 0.99},
}
# Streaming with the blocks that csrc/cuda/step/choose.h takes for 64 rows on an H200, resident with its choice for one.
LAUNCHES = {"streaming": Launch(kernel="streaming", blocks=4), "resident": Launch(kernel="chosen")}

# What one of each costs: 40 cycles; the L2; MEMBAR, CCTL.IVALL and the barrier itself. Estimates, all three.
NANOSECONDS = {"block_barriers": 25, "cluster_barriers": 350, "round_trips": 170}
Count = dict[str, float]

made = functools.cache(logit_rows.make)


@functools.cache
def models(kind: str, sample: int, positions: int = 1) -> list[Tensor]:
    """Three models' logits, [positions, VOCAB] each."""
    if kind in logit_rows.ROWS and kind not in rows.ROWS:
        return [x[sample : sample + 1] for x in made(kind, SAMPLES, VOCAB, torch.bfloat16, 3)]
    return rows.models(kind, 3, positions, VOCAB, torch.bfloat16, seed=sample)


def step(kind: str, options: dict[str, Any], sample: int) -> int:
    logits = models(kind, sample)
    fused_step(*logits, seed=sample, position=0, backend="cpu", **options)
    return sum(x.nbytes for x in logits)


def verify(kind: str, options: dict[str, Any], sample: int) -> int:
    logits = [x[None] for x in models(kind, sample, DRAFTS + 1)]
    proposed = logits[1][:, :DRAFTS]
    drafts, weights = proposed.argmax(-1), [1.0, 1.0, -1.0]
    fused_verify(drafts, proposed, logits, weights, seed=sample, position=0, backend="cpu", **options)
    return sum(x.nbytes for x in (*logits, proposed))


def score(kind: str, options: dict[str, Any], sample: int) -> int:
    logits = models(kind, sample)
    fused_score(*logits, logits[1].argmax(-1), backend="cpu", **options)
    return sum(x.nbytes for x in logits)


def count(host: HostCuda, launch: Launch, call: Callable[[int], int]) -> Count:
    """Returns the median of each count over calls that return the bytes of their inputs."""
    found = []
    host.launch = launch
    with host.installed():
        for sample in range(SAMPLES):
            size = call(sample)
            found.append({**host.counts._asdict(), "bytes": host.bytes_loaded / size})
    return {name: statistics.median(counts[name] for counts in found) for name in found[0]}


def cells(found: Count) -> list[str]:
    """Returns the figures of a line of the table."""
    waits = sum(found[name] * cost for name, cost in NANOSECONDS.items()) / 1000
    return [*(f"{found[name]:g}" for name in NANOSECONDS), f"{found['bytes']:.3f}", f"{waits:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ["lm", "flat", "wide", "demo"]
    parser.add_argument("--rows", nargs="+", default=kinds, choices=sorted({*rows.ROWS, *logit_rows.ROWS}))
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    parser.add_argument("--against", type=Path, help="results of an earlier --json, to be shown before the own ones")
    args = parser.parse_args()
    torch.manual_seed(0)  # `demo` samples the answers along which it records
    calls = [(f"step, {name}", launch, step, kind, o, OPTIONS[o])
             for name, launch in LAUNCHES.items() for kind in args.rows for o in OPTIONS]  # fmt: skip
    chosen = LAUNCHES["resident"]
    calls += [(f"verify, {DRAFTS} drafts", chosen, verify, "lm", o, OPTIONS[o]) for o in ("greedy", "T .7, top-p .9")]
    calls += [("score", chosen, score, "lm", "", {})]
    earlier = json.loads(args.against.read_text())["results"] if args.against else []
    before = {(r["kernel"], r["rows"], r["options"]): cells(r) for r in earlier}
    results = []
    print("| kernel | rows | options | block barriers | cluster barriers | round trips | bytes | waits, est. µs |")
    print("|---|---|---|---|---|---|---|---|")
    for kernel, launch, call, kind, name, options in calls:
        found = count(library(), launch, functools.partial(call, kind, options))
        results.append({"kernel": kernel, "rows": kind, "options": name, **found})
        figures = cells(found)
        if was := before.get((kernel, kind, name)):
            figures = [now if now == old else f"{old} → {now}" for old, now in zip(was, figures, strict=True)]
        print("|", " | ".join([kernel, kind, name, *figures]), "|", flush=True)
    if args.json:
        _json.write(args.json, {"machine": describe(), "results": results}, indent=1)


if __name__ == "__main__":
    main()
