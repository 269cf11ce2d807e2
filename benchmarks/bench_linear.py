"""Is a linear layer for few rows faster than torch's, and how far from its floor?

    python benchmarks/bench_linear.py
    python benchmarks/bench_linear.py --json benchmarks/results/linear-cpu.json

The baseline is `torch.nn.functional.linear` on the same tensors. The floor is the larger of two times, both rates being
measured in the same run: the weight's bytes at the rate of a sum over it, and its products at the rate of torch's
product of square fp32 matrices. Calls alternate, so that the machine's moods meet all alike, and go through weights of
64 MiB in all. Times are minima, with one thread of the process's own time: where a large cache keeps some of the small
weights, they can lie below the floor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from common.machine import describe
from rich.console import Console
from rich.table import Table
from torch.nn.functional import linear as torch_linear

from eft_ext import _json
from eft_ext.ops.linear import linear

SHAPES = ((32000, 512), (1376, 512), (512, 512), (128256, 512))
ROWS = (1, 2, 4, 9, 16, 32)
MIB = 1 << 20


def least(calls: dict[str, Callable[[], object]], seconds: float, times: int) -> dict[str, float]:
    """The shortest time of each call, in microseconds, at least `times` turns."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    found = dict.fromkeys(calls, float("inf"))
    end = time.perf_counter() + seconds
    while times > 0 or time.perf_counter() < end:
        times -= 1
        for name, call in calls.items():
            start = clock()
            call()
            found[name] = min(found[name], (clock() - start) * 1e6)
    return found


def rates() -> tuple[float, float]:
    """Bytes and fp32 operations a microsecond."""
    large, square = torch.ones(64 * MIB // 4), torch.ones(512, 512)
    found = least({"sum": large.sum, "product": lambda: square @ square}, 1.0, 5)
    return large.nbytes / found["sum"], 2 * 512**3 / found["product"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each line")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    read, compute = rates()
    title = f"microseconds, minima; {read / 1e3:.1f} GB/s, {compute / 1e3:.0f} GFLOP/s"
    table = Table("weight", "dtype", "rows", "torch", "here", "floor", "torch / here", "here / floor", title=title)
    results: list[dict[str, Any]] = []
    with torch.inference_mode():
        for (outputs, features), dtype in [(s, d) for s in SHAPES for d in (torch.float32, torch.bfloat16)]:
            one = torch.randn(outputs, features).to(dtype)
            weights = [one] + [one.clone() for _ in range(64 * MIB // one.nbytes)]
            for rows in ROWS:
                x = torch.randn(rows, features).to(dtype)
                calls = {
                    "torch": partial(lambda x, w: torch_linear(x, next(w)), x, cycle(weights)),
                    "here": partial(lambda x, w: linear(x, next(w)), x, cycle(weights[::-1])),
                }
                found = least(calls, args.seconds, 4)
                floor = max(one.nbytes / read, 2 * rows * one.numel() / compute)
                line = {"weight": [outputs, features], "dtype": str(dtype).removeprefix("torch."), "rows": rows}
                results.append({**line, **found, "floor": floor})
                times = (f"{t:.0f}" for t in (found["torch"], found["here"], floor))
                ratios = (f"{found['torch'] / found['here']:.2f}", f"{found['here'] / floor:.2f}")
                table.add_row(f"{outputs} x {features}", line["dtype"], str(rows), *times, *ratios)
    Console().print(table)
    if args.json:
        rated = {"read_bytes_per_us": read, "flop_per_us": compute}
        _json.write(args.json, {"machine": describe(), **rated, "results": results}, indent=1)


if __name__ == "__main__":
    main()
