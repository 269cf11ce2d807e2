"""Does vLLM give a trio's exact outputs, under everything that it does to a batch?

    python benchmarks/vllm_parity.py                      # the shipped trio
    python benchmarks/vllm_parity.py --checkpoint trio    # a folder of eft pack
    python benchmarks/vllm_parity.py --v2                 # every case under vLLM's V2 model runner

vLLM generates greedily in fp32. Each output is compared with that of a naive loop: for every token, three forward
passes over the whole text in plain torch, without a cache. An output differs if one of its tokens does. Each case runs
in a process of its own; one that fails is a row of the table. Without a GPU the V2 model runner's Triton kernels are
interpreted. Progress is on stderr. The exit status is 1 if an output differs or a case fails.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from common.machine import describe
from engines import parity, processes
from rich.console import Console
from rich.table import Table

from eft_ext import _json

LARGEST = 1e-4  # of prompt log-probabilities, in fp32


def row(name: str, case: parity.Case, args: Any) -> dict[str, Any]:
    """Runs a case in a process of its own."""
    found: dict[str, Any] = {"name": name, "test": case.shown, "v2": case.v2, "requests": case.count}
    if torch.cuda.is_available() and torch.cuda.device_count() < case.devices:
        return {**found, "left_out": f"needs {case.devices} GPUs"}
    start = time.monotonic()
    result, fault = processes.run(name, args, case.v2)
    return {**found, **(result or {"fault": fault}), "seconds": time.monotonic() - start}


def right(found: dict[str, Any]) -> bool:
    if "left_out" in found:
        return True
    return "fault" not in found and found.get("differ", 0) == 0 and found.get("largest_difference", 0.0) <= LARGEST


def cells(found: dict[str, Any]) -> list[str]:
    """The row of the table."""
    notes = []
    if found.get("cached"):
        notes.append(f"{found['cached']} cached tokens")
    if found.get("preemptions"):
        notes.append(f"{found['preemptions']} preemptions")
    if found.get("drafted"):
        notes.append(f"{found['accepted']} of {found['drafted']} drafts accepted")
    notes += [found[name] for name in ("left_out", "fault") if name in found]
    differ = str(found.get("differ", "not run"))
    if "largest_difference" in found:
        differ = f"by {found['largest_difference']:.0e} at most"
    return [found["test"], str(found["requests"]), differ, ", ".join(notes)]


def main() -> int:
    parser = processes.options(__doc__)
    parser.add_argument("--v2", action="store_true", help="run every case under vLLM's V2 model runner")
    parser.add_argument("--only", nargs="+", help="run only these cases, by their names in the JSON")
    return processes.main(parser, part, whole)


def part(args: Any) -> Any:
    """One case, in this process."""
    case = parity.cases(args.checkpoint, args.v2)[args.part]
    processes.prepare(case.v2)
    return parity.measure(case, args.checkpoint)


def whole(args: Any) -> int:
    """All cases as a table."""
    cases = parity.cases(args.checkpoint, args.v2)
    if unknown := set(args.only or ()) - set(cases):
        print(f"--only: expected some of {', '.join(cases)}, got {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    for name in args.only or cases:
        print(f"{name}: {cases[name].shown} ...", file=sys.stderr, flush=True)
        rows.append(row(name, cases[name], args))
        if args.json:  # each time: a run that is stopped leaves what it has
            _json.write(args.json, {"machine": describe(), "results": rows}, indent=1)
    table = Table("test", "requests", "outputs that differ", "", title="vLLM beside a naive loop")
    for found in rows:
        table.add_row(*cells(found))
    Console(width=150).print(table)
    return int(not all(map(right, rows)))


if __name__ == "__main__":
    sys.exit(main())
