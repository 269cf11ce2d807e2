"""The tail of the step's times while torch's own thread pool works between the calls.

    python benchmarks/bench_outliers.py --json benchmarks/results/outliers.json

Two OpenMP pools on two cores gave spikes of 8 ms in a 1 ms call; the step uses the pool that torch has loaded.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import rows
import torch
from bench_step import fused
from machine import describe
from rich.console import Console
from rich.table import Table


def measure(batch: int, vocab: int, calls: int) -> dict[str, float]:
    step = fused(rows.make("lm", batch, vocab, torch.bfloat16, 3), {"temperature": 0.7, "top_p": 0.9})
    a = torch.randn(384, 384)
    times = []
    step()
    for _ in range(calls):
        a = (a @ a).clamp(-1, 1)  # the pool is busy, as it is with the models' forward passes
        start = time.perf_counter()
        step()
        times.append(1e6 * (time.perf_counter() - start))
    p50, p99, worst = np.percentile(times, [50, 99, 100])
    return {"batch": batch, "vocab": vocab, "calls": calls, "p50_us": p50, "p99_us": p99, "max_us": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    table = Table("B", "median", "99th percentile", "ratio", "worst", title=f"{args.calls} calls, microseconds")
    results = [measure(batch, args.vocab, args.calls) for batch in args.batch]
    for r in results:
        times = [f"{r[name]:,.0f}" for name in ("p50_us", "p99_us", "max_us")]
        table.add_row(str(r["batch"]), *times[:2], f"{r['p99_us'] / r['p50_us']:.2f}x", times[2])
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"machine": describe(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
