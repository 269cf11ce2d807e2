"""How long one step takes: `fused_step` beside transformers' own chain, with the floor measured in the same run.

    python benchmarks/bench_step.py                # the default grid, about two minutes
    python benchmarks/bench_step.py --batch 8 --vocab 32000 --json benchmarks/results/step.json

The floor is reading the three tensors once (torch sums). Rows are like a language model's: a Zipf head over a broad floor.
Medians; a ratio to the baseline and the floor of the same run is what carries over to other machines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from eft_ext import fused_step

OPTIONS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "T=.7": {"temperature": 0.7},
    "T=.7 top-p .9": {"temperature": 0.7, "top_p": 0.9},
    "top-k 50": {"top_k": 50},
    "all": {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
}


def lm_rows(batch: int, vocab: int, dtype: torch.dtype) -> list[Tensor]:
    """Three models' logits [B, V] that agree on most of the ranking."""
    generator = torch.Generator().manual_seed(0)
    zipf = -1.2 * torch.log(torch.arange(1, vocab + 1).float())
    common = zipf[torch.randperm(vocab, generator=generator)]
    return [(common + 0.5 * torch.randn(batch, vocab, generator=generator)).to(dtype) for _ in range(3)]


def transformers_chain(options: dict[str, float]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """What generation loops run today: three log-softmaxes, the combination, warpers, softmax, multinomial."""
    makers = {
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    greedy = options.get("temperature") == 0.0
    warpers = [] if greedy else [make(options[name]) for name, make in makers.items() if name in options]

    def chain(large: Tensor, tuned: Tensor, base: Tensor) -> Tensor:
        large, tuned, base = (torch.log_softmax(x.float(), dim=-1) for x in (large, tuned, base))
        scores = large + 1.0 * (tuned - base)
        for warper in warpers:
            scores = warper(None, scores)
        if greedy:
            return scores.argmax(dim=-1)
        return torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)

    return chain


def median_us(call: Callable[[], object], seconds: float) -> float:
    """Median microseconds a call over about `seconds`, at least five calls."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - start))
    return statistics.median(times)


def measure(batch: int, vocab: int, dtype: torch.dtype, options: dict[str, float], seconds: float) -> dict[str, float]:
    rows = lm_rows(batch, vocab, dtype)
    out = torch.empty(batch, dtype=torch.int64)
    position = iter(range(1 << 40))
    chain = transformers_chain(options)
    return {
        "fused_us": median_us(lambda: fused_step(*rows, seed=1, position=next(position), out=out, **options), seconds),
        "chain_us": median_us(lambda: chain(*rows), seconds),
        "floor_us": median_us(lambda: [x.sum() for x in rows], seconds),
    }


def show(results: list[dict]) -> Table:
    table = Table("B", "V", "options", "chain", "fused_step", "floor", "faster", "x floor", title="One step on the CPU")
    for r in results:
        times = [f"{r[f'{name}_us']:,.0f} µs" for name in ("chain", "fused", "floor")]
        ratios = [f"{r['chain_us'] / r['fused_us']:.0f}x", f"{r['fused_us'] / r['floor_us']:.1f}x"]
        table.add_row(str(r["batch"]), str(r["vocab"]), r["options"], *times, *ratios)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--vocab", type=int, nargs="+", default=[128256])
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each measurement")
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()

    points = [(b, v, name) for v in args.vocab for b in args.batch for name in OPTIONS]
    results: list[dict] = []
    for batch, vocab, name in track(points, "measuring", console=Console(stderr=True)):
        times = measure(batch, vocab, getattr(torch, args.dtype), OPTIONS[name], args.seconds)
        results.append({"batch": batch, "vocab": vocab, "dtype": args.dtype, "options": name, **times})
    Console(width=110).print(show(results))
    if args.json:
        args.json.write_text(json.dumps({"machine": describe(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
