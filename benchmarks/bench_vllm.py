"""Does a trio in vLLM cost more than its three models, and is it faster than eft_ext's own batch engine?

    python benchmarks/bench_vllm.py --json benchmarks/results/vllm-cpu.json
    python benchmarks/bench_vllm.py --speculation --batch 8 --json benchmarks/results/vllm-speculation-cpu.json

    trio     the checkpoint in vLLM                 batch   the checkpoint in EmulatedModel.generate_batch
    large    the large model alone in vLLM          ngram   trio, with n-gram speculation
    floor    large, tuned and base, each alone in vLLM, their times added: three forward passes without mixing
    draft    trio, with tuned as the draft model

All requests are there at once, each with its own seed, and all generate the same number of tokens, greedily and at
temperature 1. Engines run one after another in processes of their own; medians over passes. Without a GPU times are CPU
time of one thread, which other load disturbs less than wall time. The parts of a step come from one more pass.

With --speculation the trio answers questions of the demonstration at several betas, and tuned drafts 0 to 5 tokens.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from common.machine import describe
from engines import processes, speculation, throughput
from engines.engine import MODES
from rich.console import Console
from rich.table import Table

from eft_ext import _json

ENGINES = ("trio", "large", "tuned", "base", "batch", "ngram", "draft")
DRAFTS = tuple(f"k={k}" for k in range(6))


def accepted(found: dict[str, Any]) -> str:
    """Accepted drafts for each of a request's steps."""
    counts = found.get("speculation", {})
    return f"{counts['accepted'] / counts['drafts']:.2f}" if counts.get("drafts") else ""


def show(results: dict[str, Any], seconds: str) -> list[Table]:
    """A table for each mode, and one of the parts of the trio's step."""
    tables = []
    for mode in MODES:
        took = {name: own[mode][seconds] for name, own in results.items()}
        if {"large", "tuned", "base"} <= set(took):
            took["floor"] = took["large"] + took["tuned"] + took["base"]
        table = Table("", "seconds", "tokens/s", "of large", "of trio", "of floor", "accepted a step", title=mode)
        for name, own in took.items():
            tokens = results.get(name, results["large" if "large" in results else name])[mode]["tokens"]
            ratios = [f"{took[other] / own:.2f}x" if other in took else "" for other in ("large", "trio", "floor")]
            table.add_row(
                name, f"{own:.2f}", f"{tokens / own:,.0f}", *ratios, accepted(results.get(name, {}).get(mode, {}))
            )
        tables.append(table)
    parts = Table("", "forward passes", "heads", "mixing", "scheduler, sampling, rest", title="a step of the trio")
    for mode in MODES:
        if own := results.get("trio", {}).get(mode, {}).get("shares"):
            rest = own["whole"] - own["forward"] - own["heads"] - own["combine"]
            parts.add_row(
                mode, *(f"{part / own['whole']:.1%}" for part in (own["forward"], own["heads"], own["combine"], rest))
            )
    return [*tables, parts]


def show_speculation(results: dict[str, Any], seconds: str) -> list[Table]:
    """Tokens a second, beside those without drafts, and accepted drafts a step."""
    tables = []
    for mode in MODES:
        table = Table("beta", "", "tokens/s", "of no drafts", "accepted a step", "acceptance", title=mode)
        for beta in speculation.BETAS:
            rates = {k: own[str(beta)][mode]["tokens"] / own[str(beta)][mode][seconds] for k, own in results.items()}
            for k, rate in rates.items():
                own = results[k][str(beta)][mode]
                counts = own["speculation"]
                share = f"{counts['accepted'] / counts['drafted']:.0%}" if counts.get("drafted") else ""
                ratio = f"{rate / rates['k=0']:.2f}x" if "k=0" in rates else ""
                table.add_row(str(beta), k, f"{rate:,.0f}", ratio, accepted(own), share)
        tables.append(table)
    return tables


def main() -> int:
    gpu = torch.cuda.is_available()
    parser = processes.options(__doc__)
    parser.add_argument("--batch", type=int, default=64, help="requests at once")
    parser.add_argument("--new", type=int, default=48, help="new tokens of each")
    parser.add_argument("--passes", type=int, default=5, help="passes that each median is over")
    parser.add_argument("--dtype", default="auto" if gpu else "float32", help="of weights and arithmetic")
    parser.add_argument("--k", type=int, default=3, help="tokens drafted at once by ngram and draft")
    parser.add_argument("--v2", action="store_true", help="take vLLM's V2 model runner")
    parser.add_argument("--speculation", action="store_true", help="measure tuned's drafts over beta and k instead")
    parser.add_argument("--only", nargs="+", help="run only these engines, or with --speculation k=0 to k=5")
    return processes.main(parser, part, whole)


def part(args: argparse.Namespace) -> dict[str, Any]:
    """One engine, in this process."""
    processes.prepare(args.v2)
    if args.part.startswith("k="):
        return speculation.speculating(int(args.part[2:]), args)
    return throughput.in_batch(args) if args.part == "batch" else throughput.in_vllm(args.part, args)


def whole(args: argparse.Namespace) -> int:
    """All engines, one after another, as tables."""
    seconds = "wall_s" if torch.cuda.is_available() else "cpu_s"
    wanted = DRAFTS if args.speculation else ENGINES
    results: dict[str, Any] = {}
    faults = []
    for name in args.only or wanted:
        print(f"{name} ...", file=sys.stderr, flush=True)
        result, fault = processes.run(name, args, args.v2)
        results |= {name: result} if result else {}
        faults += [f"{name}: {fault}"] if fault else []
        if args.json:  # each time: a run that is stopped leaves what it has
            about = {"machine": describe(), "batch": args.batch, "new": args.new, "dtype": args.dtype, "k": args.k}
            _json.write(args.json, {**about, "seconds": seconds, "results": results, "faults": faults}, indent=1)
    for table in (show_speculation if args.speculation else show)(results, seconds):
        Console(width=120).print(table)
    for line in faults:
        print(line)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
