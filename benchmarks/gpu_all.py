"""Do all kernels run on this GPU, are they right, and how fast are they? One command that keeps to its time.

    python benchmarks/gpu_all.py --seconds 480 --out gpu                # make gpu-all BIN=<folder of python>
    python benchmarks/gpu_all.py --seconds 480 --out gpu --only step    # by stage; --list names them
    python benchmarks/gpu_all.py --rehearse --seconds 240 --out gpu     # no GPU: the same commands on a stand-in

Stages run one after another, each in a process of its own that is killed when its time limit is over. Each writes into
--out at once: log.txt, one results file, summary.json. A stage that fails does not stop the others. Where the smallest
test of a kernel fails, memcheck of that test comes next, and stages that need the kernel are left out. A stage begins
if most of its limit is left; unused time is shared. `gpu_ledger.py` takes the folder into docs/gpu.md. Baselines and
floors are those of each stage's command. Ends with 1 where a stage has failed or was left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.checkout import ROOT
from common.timeout import CommandResult, run_with_timeout
from gpu.stages import MEMCHECK, STAGES, Run, Stage, counts_by_kernel
from gpu.tests import CUDA, counts_of

MIN_SHARE = 0.7  # of a stage's limit that must be left to begin it


@dataclass
class Outcome:
    """The end of a stage.

    Attributes:
        result: "passed", "failed", or "left out".
        why: the reason where it did not pass.
        tests: passed, failed and skipped tests by kernel.
    """

    stage: str
    result: str
    why: str = ""
    seconds: float = 0.0
    figure: str = ""
    commands: list[str] = field(default_factory=list)
    tests: dict[str, Any] = field(default_factory=dict)


class StageRunner:
    """Runs stages within a time limit and keeps their outcomes."""

    def __init__(self, run: Run, seconds: float) -> None:
        self._run, self._start, self._seconds = run, time.monotonic(), seconds
        self.outcomes: list[Outcome] = []
        self._environment = environment(run)

    def run_all(self, stages: Sequence[Stage]) -> None:
        """Runs stages in order and writes the summary after each."""
        waiting = list(stages)
        while waiting:
            stage = waiting.pop(0)
            outcome = self._leave_out(stage) or self._run_stage(stage, len(waiting))
            self.outcomes.append(outcome)
            print(outcome_line(outcome), flush=True)
            if stage.name == "smallest" and self._run.failed:
                waiting.insert(0, MEMCHECK)
            self.write()

    def _seconds_left(self) -> float:
        return self._seconds - (time.monotonic() - self._start)

    def _leave_out(self, stage: Stage) -> Outcome | None:
        if missing := [key for key in stage.needs if key not in self._run.usable]:
            return Outcome(stage.name, "left out", f"the smallest test of {', '.join(missing)} did not pass")
        if not stage.commands(self._run):
            return Outcome(stage.name, "left out", "no kernel has passed its smallest test")
        if (left := self._seconds_left()) < MIN_SHARE * stage.seconds:
            return Outcome(stage.name, "left out", f"{max(left, 0):.0f} s were left of its {stage.seconds:.0f}")
        return None

    def _run_stage(self, stage: Stage, behind: int) -> Outcome:
        left = self._seconds_left()
        limit = min(left, max(stage.seconds, left / (behind + 1)))  # the last one gets all that is left
        self._run.seconds = limit
        print(f"[{self._seconds - left:4.0f} s] {stage.name}: {stage.about} (at most {limit:.0f} s)", flush=True)
        start, ended = time.monotonic(), list[CommandResult]()
        with open(self._run.out / "log.txt", "a+b") as log:
            for command in stage.commands(self._run):
                shown = display_command(command, self._run)
                log.write(f"\n==== {stage.name}: {shown}\n".encode())
                log.flush()
                remaining = max(1.0, limit - (time.monotonic() - start))
                ended.append(run_with_timeout(command, remaining, log, cwd=ROOT, env=self._environment, shown=shown))
                log.write(f"==== {ended[-1].fault or 'ended with 0'}, {ended[-1].seconds:.1f} s\n".encode())
        return self._judge(stage, ended, time.monotonic() - start)

    def _judge(self, stage: Stage, ended: list[CommandResult], seconds: float) -> Outcome:
        printed = "".join(e.output for e in ended)
        counts = counts_of("".join(e.output for e in ended if "-m pytest" in e.command))
        why = next((e.fault for e in ended if e.fault), "")
        try:
            figure = stage.figure(self._run.out, printed)
        except (KeyError, TypeError, ValueError) as error:
            figure, why = "", why or f"left what cannot be read: {type(error).__name__}: {error}"
        if not why and stage.result and not (self._run.out / stage.result).exists():
            why = f"left no {stage.result}"
        elif not why and not figure:
            why = "printed nothing that it is read for"
        if stage.name == "smallest":
            bad = {file: found.failed + found.unfinished for file, found in counts.items()}
            passed = [key for key, t in CUDA.items() if t.file in counts and counts[t.file].passed]
            self._run.failed = [test for tests in bad.values() for test in tests]
            self._run.usable = [key for key in passed if not bad[CUDA[key].file]]
        tests = {name: asdict(found) for name, found in counts_by_kernel(counts).items()}
        commands = [e.command for e in ended]
        return Outcome(stage.name, "failed" if why else "passed", why, seconds, figure, commands, tests)

    def summary(self) -> dict[str, Any]:
        return {
            "rehearsed": self._run.rehearse,
            "machine": self._machine(),
            "seconds": round(time.monotonic() - self._start, 1),
            "stages": [asdict(outcome) for outcome in self.outcomes],
        }

    def _machine(self) -> dict[str, Any] | None:
        """Returns the machine of the first results file that names one."""
        for stage in self.outcomes:
            path = self._run.out / f"{stage.stage}.json"
            with suppress(OSError, ValueError, AttributeError):
                found = json.loads(path.read_text())
                if machine := found.get("machine", found if stage.stage == "device" else None):
                    return dict(machine)
        return None

    def write(self) -> None:
        (self._run.out / "summary.json").write_text(json.dumps(self.summary(), indent=1) + "\n")


def environment(run: Run) -> dict[str, str]:
    """Returns the environment of all commands: this tree's package and library; in a rehearsal the stand-in."""
    variables = {k: v for k, v in os.environ.items() if k not in ("BIN", "MAKEFLAGS", "MAKELEVEL")}
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables |= {"PYTHONUNBUFFERED": "1", "COLUMNS": "160"}
    if (ROOT / "eft_ext" / "libeft.so").exists():
        variables["EFT_PREBUILT"] = "1"
    flashinfer = ROOT / ".peers" / "flashinfer"
    if flashinfer.exists():  # compiled by bring_flashinfer.py: compiling there would take minutes
        path.append(str(flashinfer))
        variables |= {"FLASHINFER_WORKSPACE_BASE": tempfile.gettempdir(), "FLASHINFER_DISABLE_JIT": "1"}
    if run.rehearse:
        path.insert(0, str(ROOT / "python_tests" / "standin"))
        variables |= {
            "TRITON_INTERPRET": "1",
            "PATH": f"{ROOT / 'python_tests' / 'standin' / 'bin'}:{variables.get('PATH', '')}",
        }
    return variables | {"PYTHONPATH": ":".join(path)}


def display_command(command: Sequence[str], run: Run) -> str:
    """Returns a command as typed in the tree, without the paths of this machine."""
    short = {run.python: "python", str(Path(run.python).parent): "$BIN"}
    words = [short.get(word, word).replace(f"{run.out}/", "$OUT/") for word in command]
    words = [f"BIN={short[w[4:]]}" if w.startswith("BIN=") and w[4:] in short else w for w in words]
    return " ".join(f"'{word}'" if " " in word else word for word in words)


def outcome_line(outcome: Outcome) -> str:
    """Returns one line: the stage, its seconds, its result, its figure."""
    parts = "; ".join(part for part in (outcome.why, outcome.figure) if part)
    return f"{outcome.stage:<9} {outcome.seconds:5.0f} s  {outcome.result:<8}  {parts}"


def select_stages(only: Sequence[str], skip: Sequence[str]) -> list[Stage]:
    return [stage for stage in STAGES if (not only or stage.name in only) and stage.name not in skip]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--seconds", type=float, default=480, help="for all stages; 240 are enough for the first five")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for log and results")
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="STAGE")
    parser.add_argument("--skip", nargs="+", choices=names, default=[], metavar="STAGE")
    parser.add_argument("--list", action="store_true", help="print the stages and end")
    parser.add_argument("--rehearse", action="store_true", help="on a stand-in, without a GPU; measures nothing")
    args = parser.parse_args()
    stages = select_stages(args.only, args.skip)
    if args.list:
        for stage in stages:
            print(f"{stage.name:<9} {stage.seconds:3.0f} s  {stage.about}")
        return 0
    host = Path(os.environ.get("EFT_HOSTCUDA", ROOT / "build" / "ctest" / "csrc" / "emulator")).resolve()
    if args.rehearse and not (host / "launch" / "libeft.so").exists():
        print(f"gpu_all: --rehearse wants {host}/launch/libeft.so, which make test builds; EFT_HOSTCUDA names another "
              "folder", file=sys.stderr)  # fmt: skip
        return 2
    if not (ROOT / "eft_ext" / "libeft.so").exists():
        print("gpu_all: eft_ext/libeft.so is not there; make gpu-build takes minutes (docs/gpu.md)", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    for old in ("log.txt", "summary.json", *(stage.result for stage in STAGES if stage.result)):
        (args.out / old).unlink(missing_ok=True)  # of another run
    python = Path(os.environ["BIN"]) / "python" if os.environ.get("BIN") else Path(sys.executable)
    runner = StageRunner(Run(os.path.abspath(python), args.out.resolve(), args.rehearse), args.seconds)
    try:
        runner.run_all(stages)
    except KeyboardInterrupt:
        print("interrupted: what there is so far has been written", file=sys.stderr)
    print_summary(runner, args.out)
    return int(any(outcome.result != "passed" for outcome in runner.outcomes))


def print_summary(runner: StageRunner, out: Path) -> None:
    found = runner.summary()
    machine = found["machine"] or {}
    about = ", ".join(f"{name} {machine.get(name)}" for name in ("torch", "triton", "transformers", "python", "commit"))
    print(f"\n{machine.get('gpu', 'no device was seen')}, {about}, {found['seconds']:.0f} s in all")
    for outcome in runner.outcomes:
        print(outcome_line(outcome))
    if found["rehearsed"]:
        print("REHEARSED on a stand-in: no figure here was measured on a GPU")
    print(f"written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


if __name__ == "__main__":
    sys.exit(main())
