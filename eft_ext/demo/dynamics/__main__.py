"""Runs the study: `python -m eft_ext.demo.dynamics --out DIR --seeds 5`."""

from __future__ import annotations

import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from eft_ext import _json
from eft_ext._errors import Parser, command, one_line
from eft_ext._extras import needs

with command(__name__), needs("eft_ext.demo.dynamics", "cli", "dynamics"):
    from rich.console import Console
    from rich.progress import Progress

    from eft_ext.demo.dynamics.findings import report
    from eft_ext.demo.dynamics.record import StudyRecord
    from eft_ext.demo.dynamics.runs import QUICK, StudyPlan
    from eft_ext.demo.dynamics.study import ABOUT, RUNS, check_out, run_seed
    from eft_ext.demo.trio import load_trio


@one_line()
def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the recordings, the record and study.json")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 0 (default 1)")
    parser.add_argument("--quick", action="store_true", help="a smoke run of seconds that shows nothing")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        raise ValueError(f"--seeds: expected a number at least 1, got {arguments.seeds}")
    check_out(arguments.out, arguments.seeds)
    torch.set_num_threads(1)  # layers this small take longer to share than to compute
    plan = QUICK if arguments.quick else StudyPlan()
    console = Console()
    trio = load_trio()
    start = time.perf_counter()
    record = StudyRecord([], [])
    with Progress(console=console) as progress:
        bar = progress.add_task("training", total=arguments.seeds * len(RUNS))
        for seed in range(arguments.seeds):

            def tick(done: str, seed: int = seed) -> None:
                progress.update(bar, advance=1, description=f"seed {seed}: {done}")

            curves, grades = run_seed(trio, seed, arguments.out / f"seed-{seed}", plan, tick)
            record.curves.extend(curves)
            record.grades.extend(grades)
    record.write(arguments.out)
    about = {
        "plan": asdict(plan),
        "seeds": arguments.seeds,
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {name: version(name) for name in ("torch", "transformers")} | {"python": platform.python_version()},
    }
    _json.write(arguments.out / ABOUT, about, indent=2)
    for line in report(StudyRecord.read(arguments.out)):
        console.print(line, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
