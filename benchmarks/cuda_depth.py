"""Is the depth to which the CUDA step gathers top_p's candidates the right one?

    python benchmarks/cuda_depth.py
    python benchmarks/cuda_depth.py --kinds bench-lm rows-flat --count 8

A row gathers the tokens within that many powers of two of its largest (csrc/cuda/step/candidates.cuh). It succeeds if
they are at most 2048 (else it overflows) and have top_p's mass; if not, the whole row is read again. Needs no GPU: the
reference mixes, scales and weighs bf16 rows, K = 3, as the step does. `any` takes the best depth for each row: what is
missing there fits at none. Kinds: bench- are of benchmarks/common/logit_rows.py, rows- of python_tests/helpers/rows.py,
zm-H Zipf-Mandelbrot heads of up to H nats with noise. There is no baseline, and nothing is timed.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import NamedTuple

import torch
from common import logit_rows
from torch import Tensor

from eft_ext import combine
from eft_ext.ops.reference.arithmetic import inverse_temperature, scaled
from eft_ext.ops.reference.mass import mass_threshold, masses, tiled
from python_tests.helpers import rows

MAX_CANDIDATES = 2048  # kMaxCandidates
DEPTHS = [4, 8, 10, 11, 12, 13, 14, 16]
TEMPERATURES = [0.7, 1.0, 1.3]
TOP_P = [0.5, 0.8, 0.9, 0.95, 0.99]
EXPONENTS = {"zm-1": (9.9, 3.63), "zm-3": (3.63, 1.77), "zm-5": (1.77, 1.35)}
KINDS = ["bench-demo", *EXPONENTS, "rows-lm", "bench-lm"]


class Found(NamedTuple):
    """B rows at T temperatures, P values of top_p and D depths."""

    succeeds: Tensor  # [B, T, P, D] bool
    overflows: Tensor  # [B, T, D] bool
    groups: Tensor  # [B, T, D], those that are read


def models(kind: str, count: int, vocab: int) -> list[Tensor]:
    """Three models' logits, bf16 [count, vocab] each."""
    source, _, name = kind.partition("-")
    if source == "zm":
        made = logit_rows.zipf_mandelbrot(*EXPONENTS[kind], count, vocab, torch.Generator().manual_seed(0))
        return [x.bfloat16() for x in made]
    if source == "bench":
        return logit_rows.make(name, count, vocab, torch.bfloat16, 3)
    return rows.models(name, 3, count, vocab, torch.bfloat16)


def at_temperature(z: Tensor, temperature: float) -> Found:
    """Returns Found without its dimension T."""
    t = scaled(z, inverse_temperature(torch.full((len(z),), temperature)))
    tiles, weight = tiled(t, float("-inf")), masses(t)
    total = weight.shares(weight.at_tile().sum(2)).sum(1)
    target = torch.stack([mass_threshold(torch.full((len(z),), p), total) for p in TOP_P], 1)
    bound = (t.amax(1, keepdim=True) - torch.tensor(DEPTHS).float())[:, :, None]
    reach = tiles.flatten(1)[:, None] >= bound  # [B, D, V]
    overflows = reach.sum(2) > MAX_CANDIDATES
    mass = torch.where(reach, weight.at_row().flatten(1)[:, None], 0).sum(2)
    group_max = tiles.unflatten(2, (4, 32, 8)).amax((2, 4)).flatten(1)  # each of 32 lanes holds four times 8 tokens
    groups = (group_max[:, None] >= bound).sum(2)
    return Found((mass[:, None] >= target[:, :, None]) & ~overflows[:, None], overflows, groups)


def measure(z: Tensor) -> Found:
    fields = zip(*(at_temperature(z, temperature) for temperature in TEMPERATURES), strict=True)
    return Found(*(torch.stack(field, 1) for field in fields))


def percent(found: list[Found], t: slice = slice(None), p: slice = slice(None)) -> list[str]:
    """The mean over kinds of the rows that succeed, and overflow, at each depth; then those that succeed at any."""
    succeed = [100.0 * f.succeeds[:, t, p].float() for f in found]
    overflow = [100.0 * f.overflows[:, t].float() for f in found]
    shares = [torch.stack([x.flatten(0, -2).mean(0) for x in kinds]).mean(0).tolist() for kinds in (succeed, overflow)]
    best = sum(x.amax(3).mean().item() for x in succeed) / len(succeed)
    return [f"{s:.0f} ({o:.0f})" if o >= 0.5 else f"{s:.0f}" for s, o in zip(*shares, strict=True)] + [f"{best:.0f}"]


def table(*lines: list[str]) -> None:
    print("\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], ["---"] * len(lines[0]), *lines[1:])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--count", type=int, default=48, help="rows of each kind")
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--quick", action="store_true", help="2 rows of 8192 tokens: does the command run?")
    args = parser.parse_args()
    if args.quick:
        args.count, args.vocab = 2, 8192
    torch.manual_seed(0)  # `bench-demo` samples the answers along which it records
    found: dict[str, Found] = {}
    start = time.perf_counter()
    for kind in args.kinds:
        z = combine(models(kind, args.count, args.vocab), [1.0, 1.0, -1.0])
        found[kind] = Found(*(torch.cat(x) for x in zip(*map(measure, z.split(8)), strict=True)))  # parts, for memory
        print(f"{kind}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    means = {"mean": (slice(None), slice(None)), "T ≤ 1, p .8 to .95": (slice(2), slice(1, 4))}
    means |= {f"T {t:g}": (slice(i, i + 1), slice(None)) for i, t in enumerate(TEMPERATURES)}
    depths = [str(depth) for depth in DEPTHS]
    print("Rows that succeed (overflow), in percent\n")
    table(
        ["D", *depths, "any"],
        *([kind, *percent([f])] for kind, f in found.items()),
        *([name, *percent([*found.values()], *at)] for name, at in means.items()),
    )
    print("\nGroups of 32 tokens that are read, median / largest\n")
    read = {f"{kind}, T {t:g}": f.groups[:, i] for i, t in enumerate(TEMPERATURES) for kind, f in found.items()}
    table(["D", *depths], *([name, *(f"{x.median()} / {x.max()}" for x in of.T)] for name, of in read.items()))


if __name__ == "__main__":
    main()
