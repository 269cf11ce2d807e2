"""Is attention of a decoding step faster than torch's `scaled_dot_product_attention`, and how far from its floor?

    python benchmarks/bench_attention.py --json benchmarks/results/attention-cpu.json

One layer, one thread; keys and values are views of a cache [batch, slots, heads, dim]. The floor reads the slots that
rows attend to once, at the bandwidth at which the same run sums an array of the size of the caches. "Half" masks the
second half of the slots, as a bucket of a static cache does. Times are CPU time, since other work may run beside it.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from common.machine import describe
from rich.console import Console
from rich.table import Table
from torch.nn.functional import scaled_dot_product_attention

from eft_ext import _json
from eft_ext.ops.attention import attention

# batch, heads, heads of keys, slots, dim
SHAPES = [(1, 8, 8, 128, 64), (1, 8, 8, 576, 64), (8, 8, 8, 576, 64), (8, 8, 8, 576, 32), (1, 14, 2, 2048, 64)]
LAYERS = 4  # of different caches in turn, so that no layer finds its own in the nearest cache
MIN_BYTES = 64 << 20  # of all caches together, beyond the last cache's share


def medians_ms(calls, seconds: float) -> list[float]:
    """CPU time of each call, interleaved."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 7:
        for i, call in enumerate(calls):
            start = time.process_time()
            call()
            times[i].append(1e3 * (time.process_time() - start))
    return [sorted(x)[len(x) // 2] for x in times]


def measure(shape, dtype: torch.dtype, queries: int, half: bool, seconds: float) -> dict[str, object]:
    batch, heads, kv_heads, slots, dim = shape
    pair_bytes = 2 * batch * slots * kv_heads * dim * dtype.itemsize
    layers = max(LAYERS, math.ceil(MIN_BYTES / pair_bytes))
    caches = torch.randn(layers, 2, batch, slots, kv_heads, dim).to(dtype)
    views = [tuple(x.transpose(1, 2) for x in pair) for pair in caches]
    q = torch.randn(batch, heads, queries, dim).to(dtype)
    mask = torch.zeros(batch, 1, queries, slots, dtype=dtype)
    if half:
        mask[..., slots // 2 :] = -math.inf
    whole = caches.view(torch.float32).view(-1)

    def ours() -> None:
        for k, v in views:
            attention(q, k, v, mask, None, True)

    def of_torch() -> None:
        for k, v in views:
            scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=kv_heads != heads)

    ours_ms, torch_ms, read_ms = (x / layers for x in medians_ms([ours, of_torch, whole.sum], seconds))
    floor_ms = read_ms / (2 if half else 1)
    return {
        "shape": dict(zip(("batch", "heads", "kv_heads", "slots", "dim"), shape, strict=True)),
        "dtype": str(dtype).removeprefix("torch."),
        "queries": queries,
        "half_masked": half,
        "eft_ms": ours_ms,
        "torch_ms": torch_ms,
        "floor_ms": floor_ms,
        "read_gb_per_s": pair_bytes / read_ms / 1e6,
    }


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("shape", "dtype", "queries", "masked", "eft ms", "torch ms", "torch / eft", "floor ms", "eft / floor")
    results = []
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for queries, half in ((1, False), (1, True), (9, False)):
                found = measure(shape, dtype, queries, half, arguments.seconds)
                results.append(found)
                eft, other, floor = found["eft_ms"], found["torch_ms"], found["floor_ms"]
                table.add_row(
                    *("x".join(map(str, shape)), found["dtype"], str(queries), "half" if half else ""),
                    *(f"{eft:.3f}", f"{other:.3f}", f"{other / eft:.2f}", f"{floor:.3f}", f"{eft / floor:.2f}"),
                )
    Console(width=110).print(table)
    if arguments.json:
        _json.write(arguments.json, {"machine": describe(), "threads": 1, "results": results}, indent=1)


if __name__ == "__main__":
    main()
