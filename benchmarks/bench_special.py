"""Do special tokens make the step slower?

    python benchmarks/bench_special.py
    python benchmarks/bench_special.py --json benchmarks/results/special-cpu.json

The baseline is the same step without them; bench_step.py has the floor. Calls alternate, so that the machine's moods
meet all alike. The tokens are those of Qwen2.5 beside DeepSeek-R1-Distill-Qwen: `never` the unused columns at the end,
`own` also `<think>` and the role markers. The largest logits are near 10, as those of Qwen and Llama are above 0; in
"negative" all logits are below 0, as GPT-2's. The bar: own tokens add at most 3 % to the step's time (10th
percentiles), where the largest logits are positive.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_step import fused
from common import logit_rows
from common.machine import describe
from rich.console import Console
from rich.table import Table

from eft_ext import _json
from eft_ext.ops import SpecialTokens

VOCAB = 151936
UNUSED = tuple(range(151665, VOCAB))
SPECIAL = {
    "none": None,
    "never": SpecialTokens(never=UNUSED),
    "own": SpecialTokens(own=(151644, 151645, 151648, 151649), never=(151646, 151647, *UNUSED)),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "T 1": {},
    "T .6, top-p .95": {"temperature": 0.6, "top_p": 0.95},
    "negative": {},
}


def alternating(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Microseconds of each call, in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e6)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each line")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    title = f"V = {VOCAB}, microseconds, 10th percentile"
    table = Table("dtype", "B", "options", "none", "never", "own", "never / none", "own / none", title=title)
    results: list[dict[str, Any]] = []
    for dtype in (torch.bfloat16, torch.float32):
        for batch in args.batches:
            rows = logit_rows.make("lm", batch, VOCAB, torch.float32, 3)
            for name, given in OPTIONS.items():
                logits = [(x - 20.0 if name == "negative" else x + 10.0).to(dtype) for x in rows]
                calls = {kind: fused(logits, {**given, "special_tokens": special}) for kind, special in SPECIAL.items()}
                alternating(calls, args.seconds / 10)
                times = alternating(calls, args.seconds)
                p10, p50 = ({kind: float(np.percentile(t, p)) for kind, t in times.items()} for p in (10, 50))
                ratios = {kind: p10[kind] / p10["none"] for kind in ("never", "own")}
                point = {"dtype": str(dtype).removeprefix("torch."), "batch": batch, "options": name}
                results.append({**point, "p10_us": p10, "p50_us": p50, "x_none": ratios})
                cells = [*(f"{p10[kind]:,.1f}" for kind in SPECIAL), *(f"{x:.3f}x" for x in ratios.values())]
                table.add_row(point["dtype"], str(batch), name, *cells)
    Console().print(table)
    if args.json:
        _json.write(args.json, {"machine": describe(), "threads": args.threads, "results": results}, indent=1)


if __name__ == "__main__":
    main()
