"""Does one launch of the CUDA step use the memory's full rate, and why does it stall? Nsight Compute's counters.

    python benchmarks/gpu_ncu.py [--vocab 128256] [--batch 1 256] [--json ncu.json]

The floor is 100 % of the memory's rate or of the issue slots; there is no baseline. Needs ncu and its right to read
the hardware's counters. Clocks are left alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "SchedulerStats", "WarpStateStats", "LaunchStats", "Occupancy")
# Printed, each times a factor of base units; the results file has all metrics.
HEADLINES = {
    "duration_us": ("gpu__time_duration.sum", 1e-3),
    "memory_percent": ("gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed", 1.0),
    "dram_percent": ("gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed", 1.0),
    "issue_percent": ("smsp__issue_active.avg.per_cycle_active", 100.0),
    "no_instruction": ("smsp__average_warps_issue_stalled_no_instruction_per_issue_active.ratio", 1.0),
}
WARM = 2  # steps before the one that is profiled


def run_steps(vocab: int, batch: int) -> None:
    """Runs a few steps for ncu, each on rows that are not in the cache."""
    import gpu_step
    from gpu.grid import OPTIONS, Point

    sets = gpu_step.make_sets(Point(vocab, batch, "top-p .9", 3), WARM + 1)
    for call in gpu_step.step_calls(sets, OPTIONS["top-p .9"], "cuda", 1, 0):
        call()
    gpu_step.torch.cuda.synchronize()


def profile(ncu: str, vocab: int, batch: int) -> dict[str, Any]:
    """Returns the metrics of one launch by name; raises RuntimeError with ncu's message."""
    sections = [x for section in SECTIONS for x in ("--section", section)]
    options = ["--clock-control", "none", "-k", "regex:^(stream|resident)_kernel", "-s", str(WARM), "-c", "1"]
    options += ["--csv", "--page", "raw", "--print-units", "base"]
    program = [sys.executable, __file__, "--steps", "--vocab", str(vocab), "--batch", str(batch)]
    done = subprocess.run([ncu, *options, *sections, *program], capture_output=True, text=True, check=False)
    found = parse(done.stdout)
    if "duration_us" not in found:
        printed = done.stdout + done.stderr
        print(printed[-4000:], file=sys.stderr)
        lines = [line for line in printed.splitlines() if line.strip()] or ["it printed nothing"]
        message = next((line for line in lines if "==ERROR==" in line), lines[-1])
        raise RuntimeError(f"ncu ended with {done.returncode}: {message}")
    return found


def parse(printed: str) -> dict[str, Any]:
    """Parses ncu's raw page as CSV: names, units, a line for each launch."""
    lines = [line for line in printed.splitlines() if line.startswith('"')]
    table = list(csv.reader(io.StringIO("\n".join(lines))))
    if len(table) < 3:
        return {}
    names, units, values = table[0], table[1], table[2]
    raw = dict(zip(names, values, strict=False))
    found: dict[str, Any] = {"kernel": raw.get("Kernel Name", ""), "raw": raw}
    found["units"] = {name: unit for name, unit in zip(names, units, strict=False) if unit}
    for short, (name, factor) in HEADLINES.items():
        with suppress(KeyError, ValueError):  # not collected on this chip: "n/a"
            found[short] = factor * float(raw[name].replace(",", ""))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 256])
    parser.add_argument("--json", type=Path, help="write it here")
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps:
        run_steps(args.vocab, args.batch[0])
        return 0
    ncu = shutil.which("ncu", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/cuda/bin")))
    if ncu is None:
        print("gpu_ncu: not run, ncu was not found (it comes with the CUDA toolkit)", file=sys.stderr)
        return 2
    results, failed = [], 0
    for batch in args.batch:
        try:
            found = profile(ncu, args.vocab, batch)
        except RuntimeError as error:
            print(f"gpu_ncu: B={batch}: {error}", file=sys.stderr)
            failed += 1
            continue
        results.append({"vocab": args.vocab, "batch": batch, **found})
        print(f"B={batch} {found['kernel']}: " + ", ".join(f"{k} {found[k]:g}" for k in HEADLINES if k in found))
        if args.json:
            args.json.write_text(json.dumps({"results": results}, indent=1) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
