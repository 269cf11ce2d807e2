"""What scoring costs: `fused_score` beside the plain PyTorch expression, time and peak memory, each in a process.

    python benchmarks/bench_score.py
    python benchmarks/bench_score.py --vocab 32000 --length 256 --json benchmarks/results/score-cpu.json

Both get the same logits [T, V] of three models and give, for every position, the log-probability, entropy, rank and
argmax under each model and the mixture, the implicit reward, and total variation and KL between mixture and tuned.
The floor is reading the logits once (torch sums). Memory is the process's peak (VmHWM) above what it held when the
logits were there, the logits' own bytes beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import rows
import torch
from machine import describe
from rich.console import Console
from rich.table import Table
from timing import median_us
from torch import Tensor

from eft_ext import fused_score


def plain(large: Tensor, tuned: Tensor, base: Tensor, targets: Tensor) -> list[Tensor]:
    """What a PyTorch user writes, in fp32: nothing kept that is not used again."""
    large, tuned, base = (x.float().log_softmax(-1) for x in (large, tuned, base))
    mixture = (large + (tuned - base)).log_softmax(-1)
    found = []
    for logp in (large, tuned, base, mixture):
        own = logp.gather(-1, targets[:, None])
        found += [own[:, 0], -(logp.exp() * logp).sum(-1), (logp > own).sum(-1), logp.argmax(-1)]
    p, q = mixture.exp(), tuned.exp()
    return [*found, found[4] - found[8], (p - q).abs().sum(-1) / 2, (p * (mixture - tuned)).sum(-1)]


def fused(large: Tensor, tuned: Tensor, base: Tensor, targets: Tensor) -> object:
    return fused_score(large, tuned, base, targets)


def floor(large: Tensor, tuned: Tensor, base: Tensor, targets: Tensor) -> object:
    return [x.sum() for x in (large, tuned, base)]


WAYS = {"plain": plain, "fused": fused, "floor": floor}


def memory(name: str) -> int:
    """Bytes of /proc/self/status: VmRSS, or VmHWM for the peak."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def measure(way: str, vocab: int, length: int, seconds: float) -> dict[str, float]:
    """In this process: peak memory of the first call, then the median of further ones."""
    logits = [x[:length] for x in rows.make("lm", length, vocab, torch.bfloat16, 3)]
    targets = torch.arange(length) * 7919 % vocab
    call = WAYS[way]
    call(*(x[:2, :512] for x in logits), targets[:2] % 512)  # what a first call loads is not the call's
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    held = memory("VmRSS")
    call(*logits, targets)
    peak = memory("VmHWM")
    return {
        "us": median_us(lambda: call(*logits, targets), seconds),
        "peak_above_logits": max(0, peak - held),
        "logits": sum(x.numel() * x.element_size() for x in logits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[32000, 128256])
    parser.add_argument("--length", type=int, nargs="+", default=[512])
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each measurement")
    parser.add_argument(
        "--one", choices=list(WAYS), help="measure this one here, print JSON (used by the script itself)"
    )
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.vocab[0], args.length[0], args.seconds)))
        return

    table = Table("V", "T", "", "ms", "MB above the logits", "with the logits", title="Scoring three bf16 models")
    results = []
    for vocab in args.vocab:
        for length in args.length:
            options = ["--vocab", str(vocab), "--length", str(length), "--seconds", str(args.seconds)]
            found = {}
            for way in WAYS:
                command = [sys.executable, __file__, "--one", way, *options]
                found[way] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                own, all_of_it = found[way]["peak_above_logits"], found[way]["logits"]
                megabytes = [f"{own / 1e6:,.0f}", f"{(own + all_of_it) / 1e6:,.0f}"]
                table.add_row(str(vocab), str(length), way, f"{found[way]['us'] / 1e3:,.1f}", *megabytes)
            faster = found["plain"]["us"] / found["fused"]["us"]
            smaller = [
                (found["plain"]["peak_above_logits"] + with_logits * found["plain"]["logits"])
                / max(1, found["fused"]["peak_above_logits"] + with_logits * found["fused"]["logits"])
                for with_logits in (0, 1)
            ]
            times_floor = found["fused"]["us"] / found["floor"]["us"]
            ratios = {"faster": faster, "less_memory": smaller[0], "less_memory_with_logits": smaller[1]}
            results.append({"vocab": vocab, "length": length, **found, **ratios, "times_floor": times_floor})
            table.add_section()
            table.add_row(
                "", "", "fused", f"{faster:.1f}x faster", f"{smaller[0]:.0f}x less", f"{smaller[1]:.1f}x less"
            )
            table.add_row("", "", "", f"{times_floor:.1f}x the floor", "", "", end_section=True)
    Console(width=110).print(table)
    if args.json:
        args.json.write_text(json.dumps({"machine": describe(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
