"""Does speculative decoding give more tokens a second, and as many as the formula predicts?

    python benchmarks/bench_speculate.py                    # all: results/speculate-cpu.json, docs/images
    python benchmarks/bench_speculate.py --part controlled  # a large model that costs 3 or 9 small ones
    python benchmarks/bench_speculate.py --part demo

The baseline is the same generation without drafts; the formula, E(k) T / T(k), takes the place of a floor. One thread,
and its own CPU time: other load on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common.machine import describe
from speculate.costs import Costs, Rates, seconds
from speculate.figures import plot, show
from speculate.synthetic_trio import build_pair, perturb
from torch import Tensor

from eft_ext import EmulatedModel, _json
from eft_ext.decoding.speculative.costs import CHOICES
from eft_ext.hf.generation.kept_costs import FILE
from eft_ext.hf.generation.speculation import _ADAPTIVE

HERE = Path(__file__).parent
TRIOS = {"3": (4, 10), "9": (2, 24)}  # by cost in a step: layers of the small model, and how many more
NOISE = (0.05, 0.1, 0.2, 0.45)
DRAFTS = (1, 2, 4, 8, 12, 16)


def trio(layers: int, extra: int) -> tuple[Any, Any, EmulatedModel, Tensor]:
    """Returns the large and the small model, their mixture, and a prompt."""
    large, small = build_pair(layers, extra)
    base = build_pair(layers, 0)[1]
    base.load_state_dict(small.state_dict())
    prompt = torch.randint(5, 4000, (1, 64), generator=torch.Generator().manual_seed(2))
    return large, small, EmulatedModel(large, small, base), prompt


def controlled(new: int, layers: int, extra: int) -> dict[str, Any]:
    """Measures the speed-up over k and acceptance, beside E(k) T / T(k) from the costs of the same run."""
    large, small, model, prompt = trio(layers, extra)
    costs = Costs.measured(large, small, DRAFTS)
    rates = Rates(model, prompt, new)
    for k in CHOICES[1:]:  # warms up every shape
        rates.measure(speculate=k)
    rates.measure()
    baseline = rates.measure()[0]
    sampled = dict(do_sample=True, top_k=0, pad_token_id=0)
    stock = seconds(lambda: large.generate(prompt, max_new_tokens=new, **sampled), 1)
    stock -= seconds(lambda: large.generate(prompt, max_new_tokens=1, **sampled), 3)
    rows = []
    for noise in NOISE:
        perturb(large, small, noise)
        _ADAPTIVE.clear()
        for k in (*DRAFTS, "auto, first", "auto"):
            got, out = rates.measure(speculate=k if isinstance(k, int) else "auto")
            stats = out.speculation
            row = {"noise": noise, "k": k, "tokens_per_second": got, "speed_up": got / baseline}
            row |= {"acceptance": stats.acceptance, "tokens_per_round": stats.tokens_per_round}
            if isinstance(k, int):
                row["predicted"] = costs.predicted(k, stats.acceptance)
            else:
                row["median_k"] = median(stats.draft_lengths)
            rows.append(row)
    return {
        "new_tokens": new,
        "cost_ms": costs.milliseconds(),
        "tokens_per_second": {
            "unspeculated": baseline,
            "large.generate": (new - 1) / stock,
            "large alone, static cache": 1 / (costs.large[1] + costs.step[0]),
        },
        "rows": rows,
    }


def demo(new: int) -> dict[str, Any]:
    """Measures the embedded trio on 30 of its held-out questions, greedy, one at a time."""
    from eft_ext.demo.trio import load_trio

    demo_trio = load_trio()
    model = EmulatedModel(demo_trio.large, demo_trio.tuned, demo_trio.base, demo_trio.tokenizer)
    prompts = [
        demo_trio.tokenizer(q.prompt, return_tensors="pt")["input_ids"]
        for q in demo_trio.world.questions("heldout")[:30]
    ]
    greedy = {"max_new_tokens": new, "do_sample": False, "return_dict_in_generate": True}

    def run(call: Callable[..., Any], first: bool = False, **options: Any) -> dict[str, float]:
        for ids in () if first else prompts:  # records the shapes and lets "auto" settle
            call(ids, **greedy, **options)
        began, tokens, accepted, drafted = time.process_time(), 0, 0, 0
        for ids in prompts:
            out = call(ids, **greedy, **options)
            tokens += out.sequences.shape[1] - ids.shape[1]
            stats = getattr(out, "speculation", None)
            if stats is not None:
                accepted, drafted = accepted + stats.accepted, drafted + stats.drafted
        taken = time.process_time() - began
        return {"tokens_per_second": tokens / taken, "acceptance": accepted / drafted if drafted else float("nan")}

    found = {"unspeculated": run(model.generate)}
    for k in (1, 2, 4, 8):
        found[f"k = {k}"] = run(model.generate, speculate=k)
    _ADAPTIVE.clear()
    for name in ("auto, first", "auto"):
        found[name] = run(model.generate, first=name != "auto", speculate="auto")
    ends = {"eos_token_id": demo_trio.tokenizer.eos_token_id, "pad_token_id": demo_trio.tokenizer.eos_token_id}
    found["large.generate"] = run(demo_trio.oracle.generate, **ends)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("controlled", "demo"))
    parser.add_argument("--new", type=int, default=41, help="tokens of a generation")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ[FILE] = ""  # "auto, first" knows nothing of these models
    path = HERE / "results" / "speculate-cpu.json"
    results = json.loads(path.read_text()) if path.exists() and args.part else {}
    results["machine"] = describe()
    if args.part in (None, "controlled"):
        results["controlled"] = {name: controlled(args.new, *sizes) for name, sizes in TRIOS.items()}
        plot(results["controlled"], HERE.parent / "docs" / "images" / "speculation.png")
    if args.part in (None, "demo"):
        results["demo"] = demo(60)
    show(results)
    _json.write(path, results, indent=1)


if __name__ == "__main__":
    main()
