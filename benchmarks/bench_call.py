"""Does a call of `fused_step` cost much before its kernel starts?

    python benchmarks/bench_call.py

One row of 32 tokens, so that the kernel itself is nothing. The baseline is a first call, checked in full; the floor is
the binding and the kernel alone.
"""

from __future__ import annotations

import argparse
import timeit

import common  # noqa: F401
import torch
from rich.console import Console
from rich.table import Table

from eft_ext import fused_step
from eft_ext.ops.backends import call_cache, native

LOGITS = tuple(torch.randn(1, 32).bfloat16() for _ in range(3))
OUT = torch.empty(1, dtype=torch.int64)
OPTIONS = (None, None, None, "tuned", "keep", 1.0, 0, 1.0, 0.0, None, None, None, None, "auto")


def cost_us(call, number: int = 50_000) -> float:
    return min(timeit.repeat(call, number=number, repeat=5)) / number * 1e6


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    fused_step(*LOGITS, seed=1, position=0)
    key = call_cache.cache_key(LOGITS, OPTIONS, 1, 0, None)
    prepared, _ = call_cache._calls[key]
    addresses = [x.data_ptr() for x in LOGITS]
    table = Table("part", "microseconds", title="One call, one row")
    parts = {
        "fused_step(..., seed, position), all of it": lambda: fused_step(*LOGITS, seed=1, position=0),
        "  with out=": lambda: fused_step(*LOGITS, seed=1, position=0, out=OUT),
        "of which: looking the call up (shapes, options)": lambda: call_cache.cache_key(LOGITS, OPTIONS, 1, 0, None),
        "of which: allocating the tokens": lambda: torch.empty(1, dtype=torch.int64),
        "of which: the binding and the kernel": lambda: prepared.run_next(
            native.isa(), OUT.data_ptr(), 1, 0, *addresses
        ),
        "a first call, checked in full (tensor seed)": lambda: fused_step(*LOGITS, seed=SEEDS, position=0),
    }
    for name, call in parts.items():
        table.add_row(name, f"{cost_us(call):.2f}")
    Console().print(table)


SEEDS = torch.tensor([1])

if __name__ == "__main__":
    main()
