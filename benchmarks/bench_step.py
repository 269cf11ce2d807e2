"""Is one step faster than transformers' own chain, and how far is it from its floor?

    python benchmarks/bench_step.py                                   # the default grid, about three minutes
    python benchmarks/bench_step.py --rows flat one_hot demo --dtype float32
    python benchmarks/bench_step.py --models 1 --compile --json benchmarks/results/step-cpu-k1.json
    python benchmarks/bench_step.py --device cuda --backend triton --batch 1 64 256

The baseline is transformers' chain; for one model llama.cpp's sampler stands beside it where it can be imported. On the
CPU the floor is reading the K tensors once (torch sums). On a GPU the step is replayed from a graph that reads seed and
position from the device (its inputs may stay in the L2 cache), the chain is called eagerly, and the floor is the bytes
of the K tensors over the bandwidth of a copy in the same run.
Times are medians. The ratios to the baseline and to the floor of the same run carry over to another machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from common import logit_rows
from common.llama_sampler import llama_step
from common.machine import describe
from common.timing import median_us
from common.transformers_chain import transformers_chain
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from eft_ext import _json, fused_mix, fused_step

OPTIONS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "T .7": {"temperature": 0.7},
    "T .7 top-p .9": {"temperature": 0.7, "top_p": 0.9},
    "T .7 top-p .95": {"temperature": 0.7, "top_p": 0.95},
    "T .7 top-p .5": {"temperature": 0.7, "top_p": 0.5},
    "top-k 50": {"top_k": 50},
    "top-k 50 min-p .05": {"top_k": 50, "min_p": 0.05},
    "min-p .05": {"min_p": 0.05},
    "all": {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
}
DEFAULT = ["greedy", "T .7", "T .7 top-p .9", "top-k 50", "min-p .05", "all"]


def fused(logits: list[Tensor], options: dict[str, float]) -> Callable[[], Tensor]:
    """Returns a step as a generation loop makes it: one seed, a rising position, tokens into a given tensor."""
    out = torch.empty(logits[0].shape[0], dtype=torch.int64)
    position = iter(range(1 << 40))
    if len(logits) == 1:
        return lambda: fused_mix(logits, [1.0], seed=1, position=next(position), out=out, **options)
    return lambda: fused_step(*logits, seed=1, position=next(position), out=out, **options)


def measure(logits: list[Tensor], options: dict[str, float], seconds: float, compiled: bool) -> dict[str, float]:
    chain = transformers_chain(options)
    found = {
        "fused_us": median_us(fused(logits, options), seconds),
        "chain_us": median_us(lambda: chain(*logits), seconds),
        "floor_us": median_us(lambda: [x.sum() for x in logits], seconds),
    }
    llama = llama_step(logits[0], options) if len(logits) == 1 else None
    if llama:
        found["llama_us"] = median_us(llama, seconds)
    if compiled:
        torch._dynamo.reset()
        compiled_chain = torch.compile(chain)
        found["compiled_us"] = median_us(lambda: compiled_chain(*logits), seconds)
    return found


def measure_cuda(logits: list[Tensor], options: dict[str, float], seconds: float, backend: str) -> dict[str, float]:
    from gpu.timing import copy_bytes_per_us, eager_us, graph_us

    batch, chain = logits[0].shape[0], transformers_chain(options)
    seed, position = (torch.arange(batch, device="cuda") for _ in range(2))
    where = {"seed": seed, "position": position, "backend": backend, **options}
    where["out"] = torch.empty(batch, dtype=torch.int64, device="cuda")
    step = (lambda: fused_mix(logits, [1.0], **where)) if len(logits) == 1 else (lambda: fused_step(*logits, **where))
    size = sum(x.shape[0] * x.shape[1] * x.element_size() for x in logits)
    return {
        "fused_us": graph_us([step], seconds),
        "chain_us": eager_us([lambda: chain(*logits)], seconds),
        "floor_us": size / copy_bytes_per_us(),
    }


def show(results: list[dict], device: str) -> Table:
    head = ["rows", "K", "dtype", "B", "V", "options", "chain", "fused", "floor", "faster", "x floor"]
    more = {"compiled_us": "compiled chain", "llama_us": "llama.cpp"}
    more = {key: title for key, title in more.items() if any(key in r for r in results)}
    table = Table(*head, *more.values(), title=f"One step on the {device.upper()}, microseconds")
    for r in results:
        what = [r["rows"], r["models"], r["dtype"], r["batch"], r["vocab"], r["options"]]
        times = [f"{r[f'{name}_us']:,.0f}" for name in ("chain", "fused", "floor")]
        ratios = [f"{r['chain_us'] / r['fused_us']:.0f}x", f"{r['fused_us'] / r['floor_us']:.1f}x"]
        table.add_row(*map(str, what), *times, *ratios, *(f"{r[key]:,.0f}" if key in r else "" for key in more))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--vocab", type=int, nargs="+", default=[128256])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"], choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--rows", nargs="+", default=["lm"], choices=list(logit_rows.ROWS))
    parser.add_argument("--options", nargs="+", default=DEFAULT, choices=list(OPTIONS))
    parser.add_argument(
        "--models", type=int, default=3, choices=[1, 3], help="K: 3 is fused_step, 1 samples from one model"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--backend", default="auto", choices=["auto", "cuda", "triton"], help="of --device cuda")
    parser.add_argument("--compile", action="store_true", help="also the chain under torch.compile")
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each measurement")
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    if args.device == "cpu" and args.backend != "auto":
        parser.error("--backend: expected --device cuda beside it")

    grid = list(product(args.rows, args.dtype, args.vocab, args.batch, args.options))
    results: list[dict] = []
    for name, dtype, vocab, batch, options in track(grid, "measuring", console=Console(stderr=True)):
        logits = logit_rows.make(name, batch, vocab, getattr(torch, dtype), args.models)
        point = {"rows": name, "models": args.models, "dtype": dtype, "batch": batch, "vocab": vocab}
        if args.device == "cuda":
            times = measure_cuda([x.cuda() for x in logits], OPTIONS[options], args.seconds, args.backend)
        else:
            times = measure(logits, OPTIONS[options], args.seconds, args.compile)
        results.append({**point, "options": options, **times})
    Console(width=140).print(show(results, args.device))
    if args.json:
        _json.write(args.json, {"machine": describe(), "results": results}, indent=1)


if __name__ == "__main__":
    main()
