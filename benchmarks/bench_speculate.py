"""Speculative decoding: tokens a second against no speculation, and the formula beside what was measured.

One thread, and its own seconds of the processor: what else runs on the machine does not count.

python benchmarks/bench_speculate.py                    # both trios: results/speculate-cpu.json, docs/speculation.png
python benchmarks/bench_speculate.py --part controlled  # a large model that costs 3 or 9 small ones
python benchmarks/bench_speculate.py --part demo
python benchmarks/bench_speculate.py --part engine --trio 3   # rounds as steps of the engine beside the eager loop
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from controlled import build, disturb
from machine import describe
from rich.console import Console
from rich.table import Table

from eft_ext import EmulatedModel
from eft_ext.decoding import Feeder
from eft_ext.decoding.schedule import expected_tokens
from eft_ext.ops import fused_mix, fused_verify

HERE = Path(__file__).parent
TRIOS = {"3": (4, 10), "9": (2, 24)}  # by cost in a step: layers of the small model, and how many more
NOISE = (0.05, 0.1, 0.2, 0.45)
DRAFTS = (1, 2, 4, 8, 12, 16)
SAMPLED = {"do_sample": True, "top_k": 0, "seed": 1}
EFT = [1.0, 1.0, -1.0]
console = Console()


def seconds(call: Callable[[], Any], times: int) -> float:
    """The median of `times` calls."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return median(taken)


def forward_seconds(model: Any, n: int, times: int = 9) -> float:
    """One forward pass over n tokens from a static cache of 64, recorded as in a generation."""
    feeder = Feeder(model, capacity=256)
    feeder.prefill(torch.arange(5, 69)[None])
    tokens = torch.full((1, n), 7)

    def call() -> None:
        feeder.feed(tokens)
        feeder.rollback(feeder.lengths - n)

    for _ in range(20):  # until it is recorded
        call()
    return seconds(call, times)


def step_seconds(vocab: int, k: int) -> float:
    """One step (k = 0), or the draws of k drafts and their verification."""
    logits = [torch.randn(1, k + 1, vocab) for _ in range(3)]
    if k == 0:
        views = [x[:, 0] for x in logits]
        return seconds(lambda: fused_mix(views, EFT, seed=1, position=0), 51)
    drafts, seeds = torch.zeros(1, k, dtype=torch.int64), torch.ones(1, dtype=torch.int64)

    def call() -> None:
        for i in range(k):
            fused_mix([logits[1][:, i]], [1.0], seed=seeds, position=i)
        fused_verify(drafts, logits[1][:, :k], logits, EFT, seed=seeds, position=0)

    return seconds(call, 51)


def controlled(new: int, layers: int, extra: int) -> dict[str, Any]:
    """Speed-up over k and acceptance beside E(k) T / T(k) from the costs measured in the same run."""
    large, small = build(layers, extra)
    base = build(layers, 0)[1]
    base.load_state_dict(small.state_dict())
    model = EmulatedModel(large, small, base)
    prompt = torch.randint(5, 4000, (1, 64), generator=torch.Generator().manual_seed(2))
    fixed = dict(max_new_tokens=new, **SAMPLED)

    cost = {
        "large": {n: forward_seconds(large, n) for n in (1, *(k + 1 for k in DRAFTS))},
        "small": {n: forward_seconds(small, n) for n in (1, *(k + 1 for k in DRAFTS))},
        "step": {k: step_seconds(4096, k) for k in (0, *DRAFTS)},
    }
    ordinary = cost["large"][1] + 2 * cost["small"][1] + cost["step"][0]

    def rate(**options: Any) -> tuple[float, Any]:
        found: list[Any] = []
        taken = seconds(
            lambda: found.append(model.generate(prompt, return_dict_in_generate=True, **fixed, **options)), 1
        )
        return (new - 1) / (taken - first), found[-1]

    # Reading the prompt gives the first token, with drafts and without: it is not counted.
    first = seconds(lambda: model.generate(prompt, **{**fixed, "max_new_tokens": 1}), 3)

    for k in DRAFTS:  # every shape is met once before it is timed
        rate(speculate=k)
    rate()
    plain = rate()[0]
    plainly = dict(do_sample=True, top_k=0, pad_token_id=0)
    stock = seconds(lambda: large.generate(prompt, max_new_tokens=new, **plainly), 1)
    stock -= seconds(lambda: large.generate(prompt, max_new_tokens=1, **plainly), 3)
    alone = 1 / (cost["large"][1] + cost["step"][0])
    rows = []
    for noise in NOISE:
        disturb(large, small, noise)
        for k in (*DRAFTS, "auto"):
            got, out = rate(speculate=k)
            told = out.speculation
            row = {"noise": noise, "k": k, "tokens_per_second": got, "speed_up": got / plain}
            row |= {"acceptance": told.acceptance, "tokens_per_round": told.tokens_per_round}
            if k != "auto":
                taken = (k + 1) * cost["small"][1] + cost["large"][k + 1] + cost["small"][k + 1] + cost["step"][k]
                row["predicted"] = expected_tokens(k, told.acceptance) * ordinary / taken
            else:
                row["median_k"] = median(told.draft_lengths)
            rows.append(row)
    return {
        "new_tokens": new,
        "cost_ms": {name: {n: 1e3 * t for n, t in each.items()} for name, each in cost.items()},
        "tokens_per_second": {
            "unspeculated": plain,
            "large.generate": (new - 1) / stock,
            "large alone, static cache": alone,
        },
        "rows": rows,
    }


def engine(new: int, layers: int, extra: int) -> dict[str, Any]:
    """Rounds as steps of the engine and by the eager loop, taking turns, beside no drafts and the formula."""
    large, small = build(layers, extra)
    base = build(layers, 0)[1]
    base.load_state_dict(small.state_dict())
    model = EmulatedModel(large, small, base)
    prompt = torch.randint(5, 4000, (1, 64), generator=torch.Generator().manual_seed(2))
    drafts = (4, 8)
    lengths = (1, *(k + 1 for k in drafts))
    cost = {"large": {n: forward_seconds(large, n) for n in lengths}}
    cost |= {"small": {n: forward_seconds(small, n) for n in lengths}}
    cost |= {"step": {k: step_seconds(4096, k) for k in (0, *drafts)}}
    ordinary = cost["large"][1] + 2 * cost["small"][1] + cost["step"][0]
    options = {"max_new_tokens": new, "return_dict_in_generate": True, **SAMPLED}
    first = seconds(lambda: model.generate(prompt, **{**options, "max_new_tokens": 1}), 3)

    def rate(**given: Any) -> tuple[float, Any]:
        found: list[Any] = []
        taken = seconds(lambda: found.append(model.generate(prompt, **options, **given)), 1)
        return (new - 1) / (taken - first), getattr(found[-1], "speculation", None)

    rows = []
    for noise in NOISE[:2]:
        disturb(large, small, noise)
        turns: dict[str, list[float]] = {}
        for _ in range(2):
            turns.setdefault("plain", []).append(rate()[0])
            for k in drafts:
                for name, tier in (("engine", None), ("eager", 1)):
                    got, told = rate(speculate=k, tier=tier)
                    turns.setdefault(f"{name} {k}", []).append(got)
                    share = told.acceptance
                taken = (k + 1) * cost["small"][1] + cost["large"][k + 1] + cost["small"][k + 1] + cost["step"][k]
                turns[f"predicted {k}"] = [expected_tokens(k, share) * ordinary / taken]
                turns[f"acceptance {k}"] = [share]
        plain = median(turns["plain"])
        for k in drafts:
            row = {"noise": noise, "k": k, "tokens_per_second": plain}
            row |= {name: median(turns[f"{name} {k}"]) / plain for name in ("engine", "eager")}
            row |= {name: turns[f"{name} {k}"][0] for name in ("predicted", "acceptance")}
            rows.append(row)
            console.print(row)
    return {"new_tokens": new, "rows": rows}


def demo(new: int) -> dict[str, Any]:
    """The embedded trio on 30 of its held-out questions, greedy, one at a time."""
    from eft_ext.demo.trio import load_trio

    trio = load_trio()
    model = EmulatedModel(trio.large, trio.tuned, trio.base, trio.tokenizer)
    prompts = [trio.tokenizer(q.prompt, return_tensors="pt")["input_ids"] for q in trio.world.questions("heldout")[:30]]
    greedy = {"max_new_tokens": new, "do_sample": False, "return_dict_in_generate": True}

    def run(call: Callable[..., Any], **options: Any) -> dict[str, float]:
        for ids in prompts:  # shapes are recorded, "auto" has made up its mind
            call(ids, **greedy, **options)
        began, tokens, accepted, drafted = time.process_time(), 0, 0, 0
        for ids in prompts:
            out = call(ids, **greedy, **options)
            tokens += out.sequences.shape[1] - ids.shape[1]
            told = getattr(out, "speculation", None)
            if told is not None:
                accepted, drafted = accepted + told.accepted, drafted + told.drafted
        taken = time.process_time() - began
        return {"tokens_per_second": tokens / taken, "acceptance": accepted / drafted if drafted else float("nan")}

    found = {"unspeculated": run(model.generate)}
    run(model.generate, speculate="auto")  # what it learns and records serves both ways
    for k in (1, 2, 4, 8, "auto"):
        found[f"k = {k}"] = run(model.generate, speculate=k)
        found[f"k = {k}, eager loop"] = run(model.generate, speculate=k, tier=1)
    ends = {"eos_token_id": trio.tokenizer.eos_token_id, "pad_token_id": trio.tokenizer.eos_token_id}
    found["large.generate"] = run(trio.oracle.generate, **ends)
    return found


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(result), figsize=(11, 4.2), layout="constrained", sharey=True)
    for axes, (name, found) in zip(panels, result.items(), strict=True):
        draw(axes, name, found)
    panels[0].set(ylabel="times as fast as without drafts")
    figure.savefig(path, dpi=150)


def draw(axes: Any, name: str, result: dict[str, Any]) -> None:
    for i, noise in enumerate(NOISE):
        rows = [r for r in result["rows"] if r["noise"] == noise and r["k"] != "auto"]
        ks = [r["k"] for r in rows]
        share = sum(r["acceptance"] for r in rows) / len(rows)
        axes.plot(ks, [r["speed_up"] for r in rows], "o-", color=f"C{i}", label=f"{share:.0%} of drafts stand")
        axes.plot(ks, [r["predicted"] for r in rows], ":", color=f"C{i}")
    rates = result["tokens_per_second"]
    axes.axhline(rates["large alone, static cache"] / rates["unspeculated"], color="grey", lw=0.8)
    axes.text(16.2, rates["large alone, static cache"] / rates["unspeculated"], "large alone", va="center", fontsize=8)
    axes.axhline(1, color="black", lw=0.8)
    axes.set(xlabel="drafts a round, k", title=f"a large model that costs {name} small ones")
    axes.set(xlim=(0, 20), ylim=(0.4, 5))
    axes.legend(loc="upper left", title="measured (solid), formula (dotted)", fontsize=8, title_fontsize=8)


def show(results: dict[str, Any]) -> None:
    for name, found in results.get("controlled", {}).items():
        table = Table(
            "k",
            "noise",
            "acceptance",
            "tokens/round",
            "tokens/s",
            "speed-up",
            "formula",
            title=f"A large model that costs {name} small ones",
        )
        for r in found["rows"]:
            formula = f"{r['predicted']:.2f}" if "predicted" in r else f"(k = {r['median_k']:g})"
            numbers = (
                f"{r[n]:.{d}f}" for n, d in (("acceptance", 3), ("tokens_per_round", 2), ("tokens_per_second", 1))
            )
            table.add_row(str(r["k"]), str(r["noise"]), *numbers, f"{r['speed_up']:.2f}", formula)
        console.print(table)
        console.print({name: round(x, 1) for name, x in found["tokens_per_second"].items()})
        console.print({n: {k: round(x, 2) for k, x in each.items()} for n, each in found["cost_ms"].items()})
    if "demo" in results:
        table = Table("", "tokens/s", "acceptance", title="Demo trio, greedy")
        for name, r in results["demo"].items():
            share = r.get("acceptance", float("nan"))
            table.add_row(name, f"{r['tokens_per_second']:.0f}", f"{share:.3f}" if share == share else "")
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("controlled", "demo", "engine"))
    parser.add_argument("--trio", choices=TRIOS, default="3", help="with --part engine: which of them")
    parser.add_argument("--new", type=int, default=41, help="tokens of a generation")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = HERE / "results" / "speculate-cpu.json"
    results = json.loads(path.read_text()) if path.exists() and asked.part else {}
    results["machine"] = describe()
    if asked.part in (None, "engine"):
        results.setdefault("engine", {})[asked.trio] = engine(asked.new, *TRIOS[asked.trio])
    if asked.part in (None, "controlled"):
        results["controlled"] = {name: controlled(asked.new, *sizes) for name, sizes in TRIOS.items()}
        plot(results["controlled"], HERE.parent / "docs" / "speculation.png")
    if asked.part in (None, "demo"):
        results["demo"] = demo(60)
    show(results)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
