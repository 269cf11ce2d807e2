"""Where does a decoding step spend its time, in each way of decoding?

    python benchmarks/profile_step.py                        # three models from 512 x 6 and 2 x 256 x 3, V = 32000
    python benchmarks/profile_step.py --prompt 512 --batch 8
    python benchmarks/profile_step.py --stock                # with torch's own products and attention

A step's time is measured without a profiler; the profile, of the same generation, says how it divides: each model's
passes into products, attention, writes to the cache, other operators and what is between operators; the mixture, the
draw, and the rest of the engine. The floor is what reading the weights takes at the bandwidth of this run.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common.bandwidth import read_bandwidth, read_bytes
from common.machine import describe
from common.trios import load
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, record_function

from eft_ext import EmulatedModel, _json
from eft_ext.decoding.sampler import Sampler
from eft_ext.decoding.state import State
from eft_ext.decoding.static_cache.model import StaticCacheModel

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "seed": 1},
    "drafts, k = 8": {"do_sample": False, "speculate": 8},
}
KINDS = {  # of operators, by their names
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "eft_ext::linear", "aten::linear"),
    "attention": ("scaled_dot_product", "eft_ext::attention"),
    "cache writes": ("aten::index_copy_",),
}
RANGES = {"mixture and draw": (Sampler, ("__call__", "propose", "verify")), "advance": (State, ("advance",))}


@contextmanager
def marked() -> Iterator[None]:
    """Names the parts of a step for the profiler while the context lasts."""
    olds = []

    def mark(owner: Any, method: str, name: Callable[..., str]) -> None:
        old = owner.__dict__.get(method)
        if old is None:
            return
        olds.append((owner, method, old))

        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            with record_function(f"part:{name(self, *args)}"):
                return old(self, *args, **kwargs)

        setattr(owner, method, run)

    for part, (owner, methods) in RANGES.items():
        for method in methods:
            mark(owner, method, lambda *_, part=part: part)
    mark(StaticCacheModel, "run", lambda model, tokens, *_: f"{model.name}, {tokens.shape[1]} a row")
    try:
        yield
    finally:
        for owner, method, old in olds:
            setattr(owner, method, old)


def kind_of(name: str) -> str:
    return next((kind for kind, names in KINDS.items() if any(each in name for each in names)), "other operators")


def divided(events: Any) -> dict[str, Counter[str]]:
    """The microseconds of each part, by kind of operator; "between" is the part's own."""
    found: dict[str, Counter[str]] = {}
    for event in events:
        part = event
        while part is not None and not part.name.startswith("part:"):
            part = part.cpu_parent
        if part is None:
            continue
        kind = "between operators" if part is event else kind_of(event.name)
        found.setdefault(part.name[5:], Counter())[kind] += event.self_cpu_time_total
    return found


def step_ms(call: Callable[[int], Any], rounds: int, short: int = 16, long: int = 80) -> float:
    """Milliseconds of processor time a new token of a row, from two lengths."""
    slopes = []
    for _ in range(rounds):
        times = []
        for tokens in (short, long):
            start = time.process_time()
            call(tokens)
            times.append(time.process_time() - start)
        slopes.append(1e3 * (times[1] - times[0]) / (long - short))
    return median(slopes)


def measure(model: EmulatedModel, ids: torch.Tensor, options: dict[str, Any], rounds: int) -> dict[str, Any]:
    def call(tokens: int) -> Any:
        return model.generate(ids, max_new_tokens=tokens, pad_token_id=0, **options)

    call(140)  # traces
    taken = step_ms(call, rounds)
    with marked(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        call(33)
        whole = 1e6 * (time.perf_counter() - started)
    parts = divided(profiler.events())
    return {"step_ms": taken, "profiled_us": whole, "parts": {name: dict(kinds) for name, kinds in parts.items()}}


def show(found: dict[str, Any], console: Console) -> None:
    for way, each in found.items():
        table = Table("part", *KINDS, "other operators", "between operators", "all", title=f"{way}: share of a step")
        parts = each["parts"]
        total = sum(sum(kinds.values()) for kinds in parts.values())
        for name, kinds in sorted(parts.items(), key=lambda item: -sum(item[1].values())):
            cells = [kinds.get(kind, 0.0) for kind in (*KINDS, "other operators", "between operators")]
            table.add_row(name, *(f"{x / total:.1%}" if x else "" for x in cells), f"{sum(cells) / total:.1%}")
        console.print(table)
        console.print(f"{each['step_ms']:.1f} ms a token; reading the weights once takes {each['floor_ms']:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trio", default="priced")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stock", action="store_true", help="torch's own products and attention")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.stock:
        from contextlib import nullcontext

        from eft_ext.decoding.static_cache import forward, model

        forward.native_ops = model.native_ops = lambda device: nullcontext()
    models = load(args.trio, getattr(torch, args.dtype), "cpu")
    vocab = models[0].config.vocab_size
    ids = torch.randint(5, vocab, (args.batch, args.prompt), generator=torch.Generator().manual_seed(0))
    emulated = EmulatedModel(*models)
    floor = 1e3 * sum(map(read_bytes, models)) / read_bandwidth()
    found = {}
    for way, options in WAYS.items():
        found[way] = {**measure(emulated, ids, {**options, "eos_token_id": vocab + 9}, args.rounds), "floor_ms": floor}
        show({way: found[way]}, Console(width=150))
    if args.json:
        asked = {name: value for name, value in vars(args).items() if name != "json"}
        _json.write(args.json, {"machine": describe(), "asked": asked, "results": found}, indent=1)


if __name__ == "__main__":
    main()
