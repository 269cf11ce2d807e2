"""Is `fused_score` faster than the PyTorch expression on a GPU, and how far is it from its floor?

    python benchmarks/gpu_score.py
    python benchmarks/gpu_score.py --vocab 32000 --length 2048 --json benchmarks/results/score-gpu.json

Three bf16 models, logits [T, V], eager calls; inputs smaller than the L2 cache stay in it. The baseline is *plain*, the
expression in PyTorch. The floor is one read of the logits at the bandwidth of a device-to-device copy in the same run.
*Without lists* asks for everything but the five first and the five most changed tokens; *Triton* is *fused* by the
other backend. The first rows' statistics of both are compared with the CPU's before anything is timed.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

import common  # noqa: F401
import torch
from bench_score import problem, pytorch
from gpu import timing
from gpu.device import describe_gpu, missing_requirement
from rich.console import Console
from rich.table import Table

from eft_ext import _json, fused_score

LISTS = {"num_top": 5, "num_changed": 5}
CHECKED = 4


def check(logits: list[torch.Tensor], targets: torch.Tensor, backend: str) -> None:
    """Raises AssertionError where the first rows differ from the CPU's."""
    got = fused_score(*(x[:CHECKED].cuda() for x in logits), targets[:CHECKED].cuda(), **LISTS, backend=backend)
    want = fused_score(*(x[:CHECKED] for x in logits), targets[:CHECKED], **LISTS, backend="cpu")
    for name in ("lse", "logprobs", "entropy", "log1m_max", "tv", "kl", "rank", "argmax", "top_ids", "status"):
        torch.testing.assert_close(getattr(got, name).cpu(), getattr(want, name), rtol=1e-5, atol=1e-6)


def measure(vocab: int, length: int, bandwidth: float) -> dict[str, float]:
    logits, targets = problem(vocab, length)
    for backend in ("cuda", "triton"):
        check(logits, targets, backend)
    inputs, ids = [x.cuda() for x in logits], targets.cuda()
    return {
        "floor": sum(x.nbytes for x in inputs) / bandwidth,
        "fused": timing.eager_us([lambda: fused_score(*inputs, ids, **LISTS, backend="cuda")]),
        "without lists": timing.eager_us([lambda: fused_score(*inputs, ids, backend="cuda")]),
        "Triton": timing.eager_us([lambda: fused_score(*inputs, ids, **LISTS, backend="triton")]),
        "plain": timing.eager_us([lambda: pytorch(*inputs, ids)]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[32000, 128256])
    parser.add_argument("--length", type=int, nargs="+", default=[1, 512, 2048])
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    if missing := missing_requirement():
        print(f"gpu_score: not run, it needs {missing}", file=sys.stderr)
        return 2
    bandwidth = timing.copy_bytes_per_us()
    table = Table(
        "V", "T", "floor", "fused", "without lists", "Triton", "plain", title="Scoring three bf16 models, microseconds"
    )
    results = []
    for vocab, length in product(args.vocab, args.length):
        found = measure(vocab, length, bandwidth)
        table.add_row(str(vocab), str(length), *(f"{us:,.1f}" for us in found.values()))
        results.append({"vocab": vocab, "length": length, "us": found})
    Console(width=110).print(table)
    if args.json:
        _json.write(args.json, {"machine": describe_gpu(), "results": results}, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
