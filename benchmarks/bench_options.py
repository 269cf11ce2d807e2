"""Does an option make the step slower?

    python benchmarks/bench_options.py
    python benchmarks/bench_options.py --batch 8 --json benchmarks/results/options-cpu-8.json

Rows are like a language model's. The baseline is the step with T .7 and top-p .9; bench_step.py has the floor. The bar:
at V = 128256 no option but `return_details` takes more than twice as long as the baseline.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_step import fused
from common import logit_rows
from common.machine import describe
from common.timing import times_us
from rich.console import Console
from rich.table import Table

from eft_ext import _json

BASELINE: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9}


def options(batch: int, vocab: int) -> dict[str, dict[str, Any]]:
    def bits(word: int) -> torch.Tensor:
        return torch.full((batch, (vocab + 31) // 32), word, dtype=torch.int32)

    return {
        "plain": BASELINE,
        "greedy": {"temperature": 0.0},
        "T .7": {"temperature": 0.7},
        **{f"top-p {p}": {"temperature": 0.7, "top_p": p} for p in (0.5, 0.95, 0.999)},
        **{f"T 1, top-p {p}": {"top_p": p} for p in (0.9, 0.95, 0.99, 0.999)},
        "T 1.5, top-p 0.9": {"temperature": 1.5, "top_p": 0.9},
        **{f"top-k {k}": {"temperature": 0.7, "top_k": k} for k in (50, 1000, 10000)},
        "top-k 10000, top-p 0.9": {**BASELINE, "top_k": 10000},
        "T 1, min-p .05": {"min_p": 0.05},
        "T 1, min-p .0001": {"min_p": 1e-4},
        "bias": {**BASELINE, "bias": torch.zeros(vocab)},
        "bitmask": {**BASELINE, "token_bitmask": bits(-1)},
        "half forbidden": {**BASELINE, "token_bitmask": bits(0x55555555)},
        **{f"conservative {q}": {**BASELINE, "conservative_top_p": q} for q in (0.5, 0.9, 0.99)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--rows", default="lm", choices=list(logit_rows.ROWS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each measurement")
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logits = logit_rows.make(args.rows, args.batch, args.vocab, torch.bfloat16, 3)
    table = Table("options", "median", "10th percentile", "x baseline", title=f"B = {args.batch}, microseconds")
    results: list[dict] = []
    for name, given in options(args.batch, args.vocab).items():
        p10, p50 = np.percentile(times_us(fused(logits, given), args.seconds), [10, 50])
        baseline = results[0]["p50_us"] if results else p50
        results.append({"options": name, "p10_us": p10, "p50_us": p50, "x_plain": p50 / baseline})
        table.add_row(name, f"{p50:,.1f}", f"{p10:,.1f}", f"{results[-1]['x_plain']:.2f}x")
    Console().print(table)
    if args.json:
        point = {"rows": args.rows, "batch": args.batch, "vocab": args.vocab, "threads": args.threads}
        _json.write(args.json, {"machine": describe(), **point, "results": results}, indent=1)


if __name__ == "__main__":
    main()
