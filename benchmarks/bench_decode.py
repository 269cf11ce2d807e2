"""Does decoding three models as one cost more than their forward passes, and less than the loop people write today?

    python benchmarks/bench_decode.py                                        # demo trio and a wide vocabulary, CPU
    python benchmarks/bench_decode.py --device cuda --json decode-gpu.json   # random weights at real sizes
    python benchmarks/bench_decode.py --device cuda --trios 1B --ways        # and each tier by itself

(a) Floor of the CPU: the three models' forward passes alone, one token each, transformers' cache, no sampling.
(b) Floor of a GPU: all weights read once at the copy bandwidth measured in this run.
(c) Baseline: the same loop in transformers: three forward passes, its cache and processors, one multinomial.
(d) `large.generate` alone in transformers, sampling: eager, and with --compile a static cache and torch.compile.
Medians over rounds in which all of them take turns. The time of a step is the slope between two lengths, so prompts
and set-up are not in it.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common.machine import describe
from common.transformers_loop import forward_pass, transformers_loop
from common.trios import TRIOS, load
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from eft_ext import _json
from eft_ext.hf import EmulatedModel

OPTIONS = {"temperature": 0.7, "top_p": 0.9}
WAYS: dict[str, dict[str, Any]] = {  # beside the default
    "eager": {"tier": "eager"},
    "loop": {"tier": "device_loop"},
    "drafts": {"speculate": 4},  # random models accept no draft: this is the cost of a round
}


def seconds(work: Callable[[], Any]) -> float:
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bandwidth(device: str) -> float:
    """Bytes per second of a copy on the device, read and written."""
    x = torch.empty(2**30, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    y.copy_(x)
    return 2 * x.nbytes / statistics.median(seconds(lambda: y.copy_(x)) for _ in range(10))


def prompts(rows: int, length: int, vocab: int, device: str) -> tuple[Tensor, Tensor]:
    """Returns ids and mask of prompts of several lengths, padded on the left."""
    ids = torch.randint(5, vocab, (rows, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, : row % (length // 2)] = 0
    return ids.to(device), mask.to(device)


def measure(name: str, models: list[Any], rows: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the medians so far after each round."""
    device, short, long = args.device, args.tokens // 8, args.tokens
    vocab = min(model.config.vocab_size for model in models)
    ids, mask = prompts(rows, args.prompt, vocab, device)
    emulated = EmulatedModel(*models)
    # A model for each: one keeps two engines, and a third way would capture again in the time that is measured.
    by_way = {way: EmulatedModel(*models) for way in WAYS if args.ways}
    common = dict(attention_mask=mask, do_sample=True, top_k=0, eos_token_id=vocab + 999, pad_token_id=0, **OPTIONS)

    def ours(tokens: int) -> Any:
        return emulated.generate(ids, max_new_tokens=tokens, seed=1, **common)

    def alone(tokens: int) -> Any:
        return models[0].generate(ids, max_new_tokens=tokens, **{**common, **static})

    static: dict[str, Any] = {"cache_implementation": "static"} if args.compile else {}
    loops: dict[str, Callable[[int], Any]] = {
        "ours": ours,
        "plain": lambda tokens: transformers_loop(models, ids, mask, tokens, OPTIONS, vocab + 999),
        "large_alone": alone,
    }
    for way, model in by_way.items():
        options = {**common, **WAYS[way], "seed": 1}
        loops[way] = lambda n, model=model, options=options: model.generate(ids, max_new_tokens=n, **options)
    forwards = [forward_pass(model, rows, args.prompt + args.tokens // 2) for model in models]
    said = warm(loops, long)
    times: dict[str, list[float]] = {key: [] for key in (*loops, "forwards")}
    size = sum(p.nbytes for model in models for p in model.parameters())
    about: dict[str, Any] = {"trio": name, "rows": rows, "dtype": str(models[0].dtype)[6:], "said": said, "bytes": size}
    about["tier"] = emulated.plan(ids, max_new_tokens=9).tier
    if args.bandwidth:
        about["floor_us"] = 1e6 * size / args.bandwidth
    for _ in range(args.rounds):
        for key, loop in loops.items():
            a, b = (seconds(lambda loop=loop, n=n: loop(n)) for n in (short, long))
            times[key].append((b - a) / (long - short))
        sums = [statistics.median(seconds(forward) for _ in range(15)) for forward in forwards]
        times["forwards"].append(sum(sums))
        yield {**about, **{f"{key}_us": 1e6 * statistics.median(values) for key, values in times.items()}}


def warm(loops: dict[str, Callable[[int], Any]], tokens: int) -> list[str]:
    """Fills caches, traces and graphs. Drops a way that fails; returns its error, and warnings on capture."""
    said = []
    for key, loop in list(loops.items()):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                loop(tokens)
            except Exception as error:
                if key not in WAYS:
                    raise
                del loops[key]
                said.append(f"{key}: {type(error).__name__}: {error}".splitlines()[0])
        said += [
            f"{key}: {w.message}" for w in caught if re.search("not captured|no loop on the device", str(w.message))
        ]
    return said


def show(results: list[dict[str, Any]], gpu: bool) -> Table:
    heads = ["trio", "dtype", "B", "step", "tokens/s", "(a) forwards", "over (a)"]
    heads += ["(c) baseline", "faster than (c)", "(d) large alone", "of (d)"] + [
        "(b) floor",
        "of the floor",
    ] * gpu
    ways = [way for way in WAYS if any(f"{way}_us" in r for r in results)]
    heads += ways
    table = Table(
        *heads, title="Decoding, microseconds a step", caption="over (a) below 0: less than the forwards alone"
    )
    for r in results:
        ours = r["ours_us"]
        cells = [r["trio"], r["dtype"], str(r["rows"]), f"{ours:,.0f}", f"{1e6 * r['rows'] / ours:,.0f}"]
        cells += [f"{r['forwards_us']:,.0f}", f"{ours / r['forwards_us'] - 1:+.0%}"]
        cells += [f"{r['plain_us']:,.0f}", f"{r['plain_us'] / ours:.2f}x"]
        cells += [f"{r['large_alone_us']:,.0f}", f"{ours / r['large_alone_us']:.2f}x"]
        cells += [f"{r['floor_us']:,.0f}", f"{r['floor_us'] / ours:.0%}"] if gpu else []
        cells += [f"{r[f'{way}_us']:,.0f}" if f"{way}_us" in r else "—" for way in ways]
        table.add_row(*cells)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--trios", nargs="+", choices=list(TRIOS), help="demo wide; on cuda 1B 8B 13B")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", help="float32 on the CPU for demo, bfloat16 else")
    parser.add_argument("--prompt", type=int, default=16, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=96, help="new tokens of the longer run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch, on the CPU")
    parser.add_argument("--compile", action="store_true", help="(d) with a static cache and torch.compile")
    parser.add_argument("--ways", action="store_true", help=f"also each of {', '.join(WAYS)}")
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    parser.add_argument("--seconds", type=float, default=1e9, help="no measurement begins after this time")
    args = parser.parse_args()
    stop = time.monotonic() + args.seconds
    gpu = args.device == "cuda"
    if args.threads:
        torch.set_num_threads(args.threads)
    trios = args.trios or (["1B", "8B", "13B"] if gpu else ["demo", "wide"])
    args.bandwidth = bandwidth(args.device) if gpu else 0.0
    results: list[dict[str, Any]] = []
    for name in trios:
        dtype = getattr(torch, args.dtype or ("float32" if name == "demo" else "bfloat16"))
        models = load(name, dtype, args.device) if time.monotonic() < stop else []
        for rows in track(args.batch, name, console=Console(stderr=True)):
            if time.monotonic() > stop:
                break
            done = list(results)
            for found in measure(name, models, rows, args):
                results = [*done, found]
                if args.json:  # each time: a run that is stopped leaves what it has
                    about = {"machine": describe(), "bandwidth": args.bandwidth or None, "compiled": args.compile}
                    args.json.parent.mkdir(parents=True, exist_ok=True)
                    _json.write(args.json, {**about, "results": results}, indent=1)
        del models
    Console(width=160).print(show(results, gpu))
    complaints = [f"{r['trio']} B={r['rows']}: {said}" for r in results for said in r["said"]]
    for line in complaints:
        print(line)
    if left := len(trios) * len(args.batch) - len(results):
        print(f"{left} measurements left out after {args.seconds:g} s")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
