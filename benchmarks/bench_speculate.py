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
from common.machine import describe
from speculate.costs import Costs, Rates, seconds
from speculate.figures import console, plot, show
from speculate.synthetic_trio import build_pair, perturb
from torch import Tensor

from eft_ext import EmulatedModel, _json

HERE = Path(__file__).parent
TRIOS = {"3": (4, 10), "9": (2, 24)}  # by cost in a step: layers of the small model, and how many more
NOISE = (0.05, 0.1, 0.2, 0.45)
DRAFTS = (1, 2, 4, 8, 12, 16)


def trio(layers: int, extra: int) -> tuple[Any, Any, EmulatedModel, Tensor]:
    """The large and the small model, the mixture of them, and a prompt."""
    large, small = build_pair(layers, extra)
    base = build_pair(layers, 0)[1]
    base.load_state_dict(small.state_dict())
    prompt = torch.randint(5, 4000, (1, 64), generator=torch.Generator().manual_seed(2))
    return large, small, EmulatedModel(large, small, base), prompt


def controlled(new: int, layers: int, extra: int) -> dict[str, Any]:
    """Speed-up over k and acceptance beside E(k) T / T(k) from the costs measured in the same run."""
    large, small, model, prompt = trio(layers, extra)
    costs = Costs.measured(large, small, DRAFTS)
    rates = Rates(model, prompt, new)
    for k in DRAFTS:  # every shape is met once before it is timed
        rates.of(speculate=k)
    rates.of()
    plain = rates.of()[0]
    plainly = dict(do_sample=True, top_k=0, pad_token_id=0)
    stock = seconds(lambda: large.generate(prompt, max_new_tokens=new, **plainly), 1)
    stock -= seconds(lambda: large.generate(prompt, max_new_tokens=1, **plainly), 3)
    rows = []
    for noise in NOISE:
        perturb(large, small, noise)
        for k in (*DRAFTS, "auto"):
            got, out = rates.of(speculate=k)
            told = out.speculation
            row = {"noise": noise, "k": k, "tokens_per_second": got, "speed_up": got / plain}
            row |= {"acceptance": told.acceptance, "tokens_per_round": told.tokens_per_round}
            if k != "auto":
                row["predicted"] = costs.predicted(k, told.acceptance)
            else:
                row["median_k"] = median(told.draft_lengths)
            rows.append(row)
    return {
        "new_tokens": new,
        "cost_ms": costs.milliseconds(),
        "tokens_per_second": {
            "unspeculated": plain,
            "large.generate": (new - 1) / stock,
            "large alone, static cache": 1 / (costs.large[1] + costs.step[0]),
        },
        "rows": rows,
    }


def engine(new: int, layers: int, extra: int) -> dict[str, Any]:
    """Rounds as steps of the engine and by the eager loop, taking turns, beside no drafts and the formula."""
    large, small, model, prompt = trio(layers, extra)
    drafts = (4, 8)
    costs = Costs.measured(large, small, drafts)
    rates = Rates(model, prompt, new)
    rows = []
    for noise in NOISE[:2]:
        perturb(large, small, noise)
        turns: dict[str, list[float]] = {}
        for _ in range(2):
            turns.setdefault("plain", []).append(rates.of()[0])
            for k in drafts:
                for name, tier in (("engine", None), ("eager", 1)):
                    got, out = rates.of(speculate=k, tier=tier)
                    turns.setdefault(f"{name} {k}", []).append(got)
                    share = out.speculation.acceptance
                turns[f"predicted {k}"] = [costs.predicted(k, share)]
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

    own = load_trio()
    model = EmulatedModel(own.large, own.tuned, own.base, own.tokenizer)
    prompts = [own.tokenizer(q.prompt, return_tensors="pt")["input_ids"] for q in own.world.questions("heldout")[:30]]
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
    ends = {"eos_token_id": own.tokenizer.eos_token_id, "pad_token_id": own.tokenizer.eos_token_id}
    found["large.generate"] = run(own.oracle.generate, **ends)
    return found


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
    _json.write(path, results, indent=1)


if __name__ == "__main__":
    main()
