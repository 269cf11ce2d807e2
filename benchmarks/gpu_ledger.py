"""Takes the results of `gpu_all.py` into docs/gpu.md and benchmarks/results.

    python benchmarks/gpu_ledger.py gpu [--commit 1a2b3c4]

A line of the ledger says that a kernel has run on a GPU at a commit, by which command and with which result, failed or
not. Figures go to benchmarks/results/gpu-<card>-<name>.json; their baselines and floors are in them. --commit names the
sources where the machine with the GPU could not know (it has no .git, and EFT_COMMIT was not set). A rehearsal is
refused. It measures nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.checkout import ROOT
from gpu.stages import STAGES
from gpu.tests import Counts

PAGE = ROOT / "docs" / "gpu.md"
RESULTS = ROOT / "benchmarks" / "results"
HEAD = "| kernel | GPU | commit | command | result |\n|---|---|---|---|---|\n"
NOTHING = "| — | — | — | — | nothing has run on a device yet |\n"
FIGURES = [stage.name for stage in STAGES if stage.result]
TIMED = {  # stages whose figure is a line of its own -> the line's title
    "step": "CUDA step, times",
    "peers": "CUDA step beside its peers",
    "ncu": "CUDA step by the hardware's counters",
    "decode": "decoding a 1B trio",
    "price": "a 1B trio beside the large model alone, tokens a second",
    "pair": "tuned and base in one graph",
    "triton": "Triton step, times",
    "sanitize": "CUDA kernels under compute-sanitizer",
    "memcheck": "smallest failed tests under compute-sanitizer",
}


class UnusableRun(Exception):
    """Raised where a run cannot become lines of the ledger; the message says why."""


def read(folder: Path) -> dict[str, Any]:
    """Returns the summary of a run on a device."""
    path = folder / "summary.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        machine, stages = found["machine"], found["stages"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnusableRun(f"{path}: expected a summary of gpu_all.py, got {type(error).__name__}: {error}") from None
    if found.get("rehearsed") is not False:
        raise UnusableRun(f"{path}: was rehearsed on a stand-in, and says nothing about a GPU")
    if not machine or not machine.get("gpu") or not stages:
        raise UnusableRun(f"{path}: no stage has seen a device")
    return found


def card_name(machine: dict[str, Any]) -> str:
    """Returns h100-80gb-hbm3 for "NVIDIA H100 80GB HBM3"."""
    return re.sub(r"[^a-z0-9]+", "-", str(machine["gpu"]).lower().replace("nvidia", "")).strip("-")


def commit_of(found: dict[str, Any], given: str | None) -> str:
    """Returns the commit of the sources that ran: `given`, or the machine's."""
    machine = found["machine"]
    commit, newer = given or machine.get("commit"), machine.get("newer_than_libeft")
    if not commit:
        raise UnusableRun("--commit: expected the commit of the sources that ran, which they do not say; got none")
    if not given and str(commit).endswith("-dirty"):
        raise UnusableRun(f"--commit: expected one that holds all that ran, got {commit}; give it if it does")
    if not given and newer:
        raise UnusableRun(
            f"--commit: expected a libeft.so of these sources, got one older than {newer[0]}; give it if it is"
        )
    return str(commit)


def ledger_lines(found: dict[str, Any], commit: str) -> Iterator[str]:
    """Yields a line for each kernel that was tested and each stage that was timed, in the order of the stages."""
    gpu = found["machine"]["gpu"]
    for stage in found["stages"]:
        tested = [command for command in stage["commands"] if "-m pytest" in command]
        why = "" if stage["why"] in ("", "exit code 1") else f"; {stage['why']}"
        for kernel, counts in stage["tests"].items():
            about = f"{kernel}, {'smallest tests' if stage['stage'] == 'smallest' else 'tests'}"
            yield row(about, gpu, commit, f"`{tested[-1]}`", format_counts(counts) + why)
        timed = [command for command in stage["commands"] if command not in tested]
        if stage["stage"] in TIMED and timed:
            result = "; ".join(part for part in (stage["figure"], stage["why"]) if part)
            yield row(TIMED[stage["stage"]], gpu, commit, f"`{timed[0]}`", result)


def format_counts(counts: dict[str, Any]) -> str:
    """Returns passed, failed and skipped tests, the first that failed by name."""
    found = Counts(**counts)
    return str(found) + (f", first {found.failed[0].partition('::')[2]}" if found.failed else "")


def figures_of(found: dict[str, Any], folder: Path, commit: str) -> dict[str, str]:
    """Returns the results files of the stages that have run: name → text."""
    made = {}
    for stage in found["stages"]:
        path = folder / f"{stage['stage']}.json"
        if not stage["commands"] or stage["stage"] not in FIGURES or not path.exists():
            continue
        try:
            figures = json.loads(path.read_text())
        except ValueError:
            continue  # half a file: its stage was killed, which its line says
        name = f"gpu-{card_name(found['machine'])}-{stage['stage']}.json"
        made[name] = json.dumps({**figures, "commit": commit}, indent=1) + "\n"
    return made


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in cells) + " |\n"


def add_lines(page: str, new: list[str]) -> str:
    """Returns the page with these lines at the end of its ledger."""
    before, head, rest = page.partition(HEAD)
    if not head:
        raise UnusableRun(f"{PAGE.name}: expected the ledger's head, {HEAD.splitlines()[0]!r}")
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
        commit = commit_of(found, args.commit)
        new = list(ledger_lines(found, commit))
        page = add_lines(PAGE.read_text(), new)
    except UnusableRun as error:
        print(f"gpu_ledger: {error}", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    for name, text in figures_of(found, args.folder, commit).items():
        (RESULTS / name).write_text(text)
    PAGE.write_text(page)
    print(f"{len(new)} lines for {PAGE.relative_to(ROOT)}, figures in {RESULTS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
