"""Takes what `gpu_all.py` has brought back into docs/gpu.md and benchmarks/results.

    python benchmarks/gpu_ledger.py gpu [--commit 1a2b3c4]

A line of the ledger says that a kernel has run on a GPU at a commit, by which command, and what came of it: also where
it has failed. Figures go to benchmarks/results/gpu-<card>-<name>.json. --commit names the sources where the machine
with the GPU could not know (it has no .git, and EFT_COMMIT was not set). A rehearsal is refused.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkout import ROOT

PAGE = ROOT / "docs" / "gpu.md"
RESULTS = ROOT / "benchmarks" / "results"
HEAD = "| kernel | GPU | commit | command | result |\n|---|---|---|---|---|\n"
NOTHING = "| — | — | — | — | nothing has run on a device yet |\n"
FIGURES = ("device", "step", "peers", "ncu", "decode", "triton")
TIMED = {  # stages whose figure is a line of its own, and what it is about
    "step": "CUDA step, times",
    "peers": "CUDA step beside its peers",
    "ncu": "CUDA step by the hardware's counters",
    "decode": "decoding a 1B trio",
    "triton": "Triton step, times",
    "sanitize": "CUDA kernels under compute-sanitizer",
    "memcheck": "smallest failed tests under compute-sanitizer",
}


class Refused(Exception):
    """What was given cannot become a line; the message says why."""


def read(folder: Path) -> dict[str, Any]:
    """The summary of a run on a device."""
    path = folder / "summary.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        machine, stages = found["machine"], found["stages"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{path}: expected a summary of gpu_all.py, got {type(error).__name__}: {error}") from None
    if found.get("rehearsed") is not False:
        raise Refused(f"{path}: was rehearsed on a stand-in, and says nothing about a GPU")
    if not machine or not machine.get("gpu") or not stages:
        raise Refused(f"{path}: no stage has seen a device")
    return found


def card(machine: dict[str, Any]) -> str:
    """h100-80gb-hbm3 from "NVIDIA H100 80GB HBM3"."""
    return re.sub(r"[^a-z0-9]+", "-", str(machine["gpu"]).lower().replace("nvidia", "")).strip("-")


def lines(found: dict[str, Any], commit: str) -> Iterator[str]:
    """Of the ledger, in the order of the stages: one for each kernel that was tested, one for what was timed."""
    gpu = found["machine"]["gpu"]
    for stage in found["stages"]:
        tested = [command for command in stage["commands"] if "-m pytest" in command]
        for kernel, counts in stage["tests"].items():
            about = f"{kernel}, {'smallest tests' if stage['stage'] == 'smallest' else 'tests'}"
            yield row(about, gpu, commit, f"`{tested[-1]}`", counted(counts, stage["why"]))
        if stage["stage"] in TIMED and stage["figure"]:
            timed = next(command for command in stage["commands"] if command not in tested)
            why = f" ({stage['why']})" if stage["why"] else ""
            yield row(TIMED[stage["stage"]], gpu, commit, f"`{timed}`", stage["figure"] + why)


def counted(counts: dict[str, Any], why: str) -> str:
    """Tests that passed and failed, the first of these by name, and whether the run was cut off."""
    failed = counts["failed"]
    result = f"{counts['passed']} passed"
    if failed:
        result += f", {len(failed)} failed, first {failed[0].partition('::')[2]}"
    return result + (f"; {why}" if why.startswith(("killed", "crashed")) else "")


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells) + " |\n"


def entered(page: str, new: list[str]) -> str:
    """The page with these lines at the end of its ledger."""
    before, head, rest = page.partition(HEAD)
    if not head:
        raise Refused(f"{PAGE.name}: expected the ledger's head, {HEAD.splitlines()[0]!r}")
    end = re.match(r"(?:\|.*\n)*", rest).end()  # type: ignore[union-attr]
    known = rest[:end].replace(NOTHING, "")
    return before + head + known + "".join(line for line in new if line not in known) + rest[end:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="--out of gpu_all.py")
    parser.add_argument("--commit", help="of the sources that ran")
    args = parser.parse_args()
    try:
        found = read(args.folder)
        commit = args.commit or found["machine"].get("commit")
        if not commit:
            raise Refused("--commit: expected the commit of the sources that ran, which they do not say; got none")
        new = list(lines(found, commit))
        page = entered(PAGE.read_text(), new)
    except Refused as error:
        print(f"gpu_ledger: {error}", file=sys.stderr)
        return 2
    PAGE.write_text(page)
    RESULTS.mkdir(exist_ok=True)
    for name in FIGURES:
        path = args.folder / f"{name}.json"
        if path.exists():
            figures = {"commit": commit, **json.loads(path.read_text())}
            (RESULTS / f"gpu-{card(found['machine'])}-{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(f"{len(new)} lines for {PAGE.relative_to(ROOT)}, figures in {RESULTS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
