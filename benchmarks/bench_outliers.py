"""Does the step have a long tail while torch's own thread pool works between the calls?

    python benchmarks/bench_outliers.py --json benchmarks/results/outliers-cpu.json

Two OpenMP pools on two cores gave spikes of 8 ms in a 1 ms call; the step uses the pool that torch has loaded.
Baseline and floor are a control that takes turns with the step: it reads the same rows on the calling thread (numpy's
xor), so that its tail is the machine's.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from bench_step import fused
from common import logit_rows
from common.machine import describe
from rich.console import Console
from rich.table import Table

from eft_ext import _json


def measure(batch: int, vocab: int, calls: int) -> dict[str, float]:
    logits = logit_rows.make("lm", batch, vocab, torch.bfloat16, 3)
    words = [x.view(torch.int64).numpy() for x in logits]
    work = {
        "step": fused(logits, {"temperature": 0.7, "top_p": 0.9}),
        # Reads the same rows on the calling thread and does nothing else: the machine's own tail.
        "control": lambda: [np.bitwise_xor.reduce(x, axis=None) for x in words],
    }
    a = torch.randn(384, 384)
    times: dict[str, list[float]] = {name: [] for name in work}
    for name in ["step", "control"] * (calls + 1):
        a = (a @ a).clamp(-1, 1)  # the pool is busy, as it is with the models' forward passes
        start = time.perf_counter()
        work[name]()
        times[name].append(1e6 * (time.perf_counter() - start))
    found: dict[str, float] = {"batch": batch, "vocab": vocab, "calls": calls}
    for name, us in times.items():
        p50, p99, worst = np.percentile(us[1:], [50, 99, 100])
        found |= {f"{name}_p50_us": p50, f"{name}_p99_us": p99, f"{name}_max_us": worst}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    table = Table("B", "", "median", "99th percentile", "ratio", "worst", title=f"{args.calls} calls, microseconds")
    results = [measure(batch, args.vocab, args.calls) for batch in args.batch]
    for r in results:
        for name in ("step", "control"):
            p50, p99, worst = (r[f"{name}_{which}_us"] for which in ("p50", "p99", "max"))
            table.add_row(str(r["batch"]), name, f"{p50:,.0f}", f"{p99:,.0f}", f"{p99 / p50:.2f}x", f"{worst:,.0f}")
    Console().print(table)
    if args.json:
        _json.write(args.json, {"machine": describe(), "results": results}, indent=1)


if __name__ == "__main__":
    main()
