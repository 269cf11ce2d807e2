"""Is `fused_score` faster and smaller than the PyTorch expression, and how far is it from its floor?

    python benchmarks/bench_score.py
    python benchmarks/bench_score.py --vocab 32000 --length 256 --json benchmarks/results/score-cpu.json

Baseline and ours get the same logits [T, V] of three models. Both give, for every position, the log-probability,
entropy, rank and argmax under each model and the mixture, the implicit reward, and total variation and KL between
mixture and tuned. The floor is reading the logits once (torch sums). Memory is the process's peak (VmHWM) above its
size with the logits, the logits' own bytes beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import torch
from common import logit_rows
from common.machine import describe
from rich.console import Console
from rich.table import Table
from torch import Tensor

from eft_ext import _json, fused_score


def pytorch(large: Tensor, tuned: Tensor, base: Tensor, targets: Tensor) -> list[Tensor]:
    """The expression of a PyTorch user, in fp32: it keeps nothing that is not used again."""
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


WAYS = {"plain": pytorch, "fused": fused, "floor": floor}


def memory(name: str) -> int:
    """Returns the bytes of a line of /proc/self/status: VmRSS, or VmHWM for the peak."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def problem(vocab: int, length: int) -> tuple[list[Tensor], Tensor]:
    logits = [x.repeat(-(-length // 32), 1)[:length] for x in logit_rows.make("lm", 32, vocab, torch.bfloat16, 3)]
    return logits, torch.arange(length) * 7919 % vocab


def measure_memory(way: str, vocab: int, length: int) -> dict[str, float]:
    """Measures a first call in this process."""
    logits, targets = problem(vocab, length)
    call = WAYS[way]
    call(*(x[:2, :512] for x in logits), targets[:2] % 512)  # loads libraries, which are not counted
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory("VmRSS")
    call(*logits, targets)
    peak = max(0, memory("VmHWM") - before)
    return {"peak_above_logits": peak, "logits": sum(x.numel() * x.element_size() for x in logits)}


def measure_times(vocab: int, length: int, rounds: int) -> dict[str, dict[str, float]]:
    """Returns medians. The ways take turns, so that other load hits all of them.

    `cpu_us` is the CPU time of all threads: unlike wall time it is the same on a busy machine.
    """
    logits, targets = problem(vocab, length)
    wall: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}
    for i in range(rounds + 1):
        for way, call in WAYS.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            call(*logits, targets)
            if i:  # the first round warms up
                wall[way].append(1e6 * (time.perf_counter() - start))
                cpu[way].append(1e6 * (time.process_time() - start_cpu))
    return {way: {"us": statistics.median(wall[way]), "cpu_us": statistics.median(cpu[way])} for way in WAYS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[32000, 128256])
    parser.add_argument("--length", type=int, nargs="+", default=[512])
    parser.add_argument("--rounds", type=int, default=7, help="calls that each median is over")
    parser.add_argument(
        "--one",
        choices=[*WAYS, "times"],
        help="measure this in this process and print JSON (used by the script itself)",
    )
    parser.add_argument("--json", type=Path, help="write the results, with the machine, here")
    args = parser.parse_args()
    if args.one:
        vocab, length = args.vocab[0], args.length[0]
        times = args.one == "times"
        print(
            json.dumps(measure_times(vocab, length, args.rounds) if times else measure_memory(args.one, vocab, length))
        )
        return

    table = Table(
        "V", "T", "", "ms", "ms of CPU", "MB above the logits", "with the logits", title="Scoring three bf16 models"
    )
    results = []
    for vocab, length in product(args.vocab, args.length):
        options = ["--vocab", str(vocab), "--length", str(length), "--rounds", str(args.rounds)]
        found = {}
        for one in (*WAYS, "times"):
            command = [sys.executable, __file__, "--one", one, *options]
            found[one] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        times = found["times"]
        for way in WAYS:
            own, all_of_it = found[way]["peak_above_logits"], found[way]["logits"]
            megabytes = [f"{own / 1e6:,.1f}", f"{(own + all_of_it) / 1e6:,.0f}"]
            milliseconds = [f"{times[way][kind] / 1e3:,.1f}" for kind in ("us", "cpu_us")]
            table.add_row(str(vocab), str(length), way, *milliseconds, *megabytes)
        faster, less_cpu = (times["plain"][kind] / times["fused"][kind] for kind in ("us", "cpu_us"))
        floors = times["fused"]["us"] / times["floor"]["us"]
        peak = {way: found[way]["peak_above_logits"] + found[way]["logits"] for way in WAYS}
        less = peak["plain"] / peak["fused"]
        memory_of = {way: found[way] for way in WAYS}
        ratios = {"faster": faster, "less_cpu": less_cpu, "times_floor": floors, "less_memory_with_logits": less}
        results.append({"vocab": vocab, "length": length, "times": times, "bytes": memory_of, **ratios})
        said = [f"{faster:.1f}x faster", f"{less_cpu:.1f}x less", f"{floors:.1f}x the floor", f"{less:.1f}x less"]
        table.add_row("", "", "fused", *said, end_section=True)
    Console(width=110).print(table)
    if args.json:
        _json.write(args.json, {"machine": describe(), "results": results}, indent=1)


if __name__ == "__main__":
    main()
