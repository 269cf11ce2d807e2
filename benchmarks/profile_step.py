"""Parts of a decoding step by the time that they take, and passes over several tokens beside one over a single token.

    python benchmarks/profile_step.py                            # Llama 512 x 6 and twice 256 x 3, V = 32000, fp32
    python benchmarks/profile_step.py --prompt 512 --batch 8
    python benchmarks/profile_step.py --stock                    # torch's own products and attention

A step's time is measured without a profiler. The profile, of the same generation, says how it divides: each model's
passes into products, attention, writes to the cache and other operators, and what is between operators; the mixture
with its draw; the advance of the rows. The baseline of a pass over k + 1 tokens, which verifies k drafts, is the pass
over one; native and torch's own products take turns in one run. The floor is what reading the weights takes at the
bandwidth of this run.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common.machine import describe
from common.trios import TRIOS, load
from peers.clock import Clock
from peers.floor import bytes_a_token, read_bandwidth
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from eft_ext import EmulatedModel, _json
from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.sampler import Sampler
from eft_ext.decoding.state import State
from eft_ext.decoding.static_cache import model as static_model

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "seed": 1},
    "8 drafts": {"do_sample": False, "speculate": 8},
}
KINDS = {  # of operators, by their names
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "linear"),
    "attention": ("scaled_dot_product", "eft_ext::attention"),
    "cache": ("aten::index_copy_",),
}
COLUMNS = (*KINDS, "other operators", "between them")
PARTS: tuple[tuple[Any, str, Callable[..., str]], ...] = (
    (Sampler, "__call__", lambda *_: "mixture and draw"),
    (Sampler, "propose", lambda *_: "drafts' draws"),
    (Sampler, "verify", lambda *_: "verification"),
    (State, "advance", lambda *_: "advance"),
    (StaticCacheModel, "run", lambda model, tokens, *_: f"{model.name}, {tokens.shape[1]} a row"),
)
NEW = (1, 2, 3, 5, 9, 17)  # tokens of a pass


@contextmanager
def marked() -> Iterator[None]:
    """Names the parts of a step for the profiler while the context lasts."""
    olds = [(owner, method, getattr(owner, method)) for owner, method, _ in PARTS]
    for (owner, method, old), (*_, name) in zip(olds, PARTS, strict=True):

        def run(self: Any, *args: Any, old: Any = old, name: Any = name, **kwargs: Any) -> Any:
            with record_function(f"part:{name(self, *args)}"):
                return old(self, *args, **kwargs)

        setattr(owner, method, run)
    try:
        yield
    finally:
        for owner, method, old in olds:
            setattr(owner, method, old)


def divided(events: Any) -> dict[str, Counter[str]]:
    """Returns the microseconds of each part by kind of operator; what is no operator is "between them"."""
    found: dict[str, Counter[str]] = {}
    for event in events:
        part = event
        while part is not None and not part.name.startswith("part:"):
            part = part.cpu_parent
        if part is None:
            continue
        kinds = (kind for kind, names in KINDS.items() if any(name in event.name for name in names))
        kind = "between them" if part is event else next(kinds, "other operators")
        found.setdefault(part.name[5:], Counter())[kind] += event.self_cpu_time_total
    return found


def measure(model: EmulatedModel, ids: Tensor, options: dict[str, Any], clock: Clock, rounds: int) -> dict[str, Any]:
    def call(tokens: int) -> Any:
        return model.generate(ids, max_new_tokens=tokens, pad_token_id=0, **options)

    for _ in range(2):
        call(80)  # traces
    slopes = [(clock.time(lambda: call(80)).seconds - clock.time(lambda: call(16)).seconds) / 64 for _ in range(rounds)]
    with marked(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        call(33)
    parts = {name: dict(kinds) for name, kinds in divided(profiler.events()).items()}
    return {"token_ms": 1e3 * median(slopes), "parts": parts}


@contextmanager
def stock() -> Iterator[None]:
    """Models made meanwhile keep torch's own products and attention."""
    before, static_model.native_view = static_model.native_view, lambda model: model
    try:
        yield
    finally:
        static_model.native_view = before


def passes(model: Any, ids: Tensor, clock: Clock) -> dict[str, dict[int, float]]:
    """Returns the milliseconds of a pass by whose products it runs and by the number of tokens a row."""
    ways = {"native": StaticCacheModel(model, capacity=ids.shape[1] + 64)}
    with stock():  # another model, since a model has one set of traces
        ways["torch's"] = StaticCacheModel(copy.deepcopy(model), capacity=ids.shape[1] + 64)
    for static in ways.values():
        static.prefill(ids)
    times: dict[str, dict[int, list[float]]] = {way: {n: [] for n in NEW} for way in ways}
    for turn in range(85):  # traces; then all take turns
        for n in NEW:
            tokens = ids[:, :n].contiguous()
            for way, static in ways.items():
                with torch.inference_mode():
                    taken = clock.time(lambda static=static, tokens=tokens: static.run(tokens)).seconds
                if turn > 65:
                    times[way][n].append(1e3 * taken)
    return {way: {n: median(values) for n, values in each.items()} for way, each in times.items()}


def show(found: dict[str, Any], floor_ms: float, console: Console) -> None:
    for way, each in found.items():
        table = Table("share of a step", *COLUMNS, "all", title=f"{way}: {each['token_ms']:.1f} ms a token of each row")
        total = sum(sum(kinds.values()) for kinds in each["parts"].values())
        for name, kinds in sorted(each["parts"].items(), key=lambda item: -sum(item[1].values())):
            cells = [kinds.get(kind, 0.0) / total for kind in COLUMNS]
            if sum(cells) < 0.01:  # rounds at the end of a generation
                continue
            table.add_row(name, *(f"{x:.1%}" if x > 5e-4 else "" for x in cells), f"{sum(cells):.1%}")
        console.print(table)
    console.print(f"reading all weights once takes {floor_ms:.1f} ms at the bandwidth of this run")


def show_passes(found: dict[str, dict[str, dict[int, float]]], floors_ms: dict[str, float], console: Console) -> None:
    heads = ("products", *map(str, NEW), "reading the weights")
    table = Table("tokens a row", *heads, title="A pass, ms, and times a pass over one token")
    for name, ways in found.items():
        for way, times in ways.items():
            each = (f"{times[n]:.1f} ({times[n] / times[1]:.2f})" for n in NEW)
            table.add_row(name, way, *each, f"{floors_ms[name]:.1f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trio", default="realistic", choices=list(TRIOS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stock", action="store_true", help="torch's own products and attention")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.prompt < max(NEW):
        parser.error(f"--prompt: expected at least {max(NEW)}, got {args.prompt}")
    console, clock = Console(width=140), Clock("cpu", args.threads)
    models = load(args.trio, getattr(torch, args.dtype), "cpu")
    vocab = models[0].config.vocab_size
    ids = torch.randint(5, vocab, (args.batch, args.prompt), generator=torch.Generator().manual_seed(0))
    bandwidth = read_bandwidth(clock)
    floor_ms = 1e3 * bytes_a_token(models) / bandwidth
    emulated = EmulatedModel(*models)
    found = {}
    with stock() if args.stock else nullcontext():
        for way, options in WAYS.items():
            found[way] = measure(emulated, ids, {**options, "eos_token_id": vocab + 9}, clock, args.rounds)
    show(found, floor_ms, console)
    del emulated
    some = {"large": models[0], "small": models[1]}
    by_model = {name: passes(copy.deepcopy(model), ids, clock) for name, model in some.items()}
    floors_ms = {name: 1e3 * bytes_a_token([model]) / bandwidth for name, model in some.items()}
    show_passes(by_model, floors_ms, console)
    if args.json:
        asked = {name: value for name, value in vars(args).items() if name != "json"}
        result = {"machine": describe(), "asked": asked, "bandwidth_bytes_per_s": bandwidth, "floor_ms": floor_ms}
        result |= {"steps": found, "passes_ms": by_model, "pass_floor_ms": floors_ms}
        _json.write(args.json, result, indent=1)


if __name__ == "__main__":
    main()
