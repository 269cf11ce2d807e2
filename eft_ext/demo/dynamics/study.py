"""One seed of the study: all runs, and what each tuned model does to the large one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from eft_ext._files import check_folder
from eft_ext._jsonl import read_object
from eft_ext.demo.dynamics.data import KINDS, preferences, probes, with_own
from eft_ext.demo.dynamics.record import FILES
from eft_ext.demo.dynamics.runs import StudyPlan, run_dpo, run_sft
from eft_ext.demo.dynamics.upscale import upscaled
from eft_ext.demo.trio import Trio
from eft_ext.dynamics import Recording
from eft_ext.dynamics.store import check_free

Rows = list[dict[str, Any]]
STATISTICS = ("log_prob", "argmax_log_prob_mean")
RUNS = ("sft", *(f"{run}-{kind}" for kind in KINDS for run in ("extended", "dpo", "dpo-extended")))  # of each seed
ABOUT = "study.json"


def check_out(out: Path, seeds: int) -> None:
    """Raises ValueError where the study could not be written, or would replace files that are no study's."""
    check_folder("--out", out)
    for name in (ABOUT, *FILES):
        if os.path.lexists(out / name) and not _is_study(out / ABOUT):
            raise ValueError(f"--out: expected a new folder or that of an earlier study, got {out} with another {name}")
    for seed in range(seeds):
        for run in RUNS:
            check_free(out / f"seed-{seed}" / run, overwrite=True, name="--out", remedy="")


def _is_study(file: Path) -> bool:
    return file.is_file() and {"plan", "seeds"} <= read_object(file).keys()


def run_seed(
    trio: Trio, seed: int, out: Path, plan: StudyPlan, tick: Callable[[str], object] = lambda done: None
) -> tuple[Rows, Rows]:
    """Trains everything for one seed, which decides wrong values, the order of the batches and what is watched.

    Args:
        out: gets one recording for each of `RUNS`.
        tick: called with the name of each run that is done.

    Returns:
        The curves, one row for each run, step, probe and type; and the grades, one for each tuned model, question
        and whether it answers alone or through EFT.
    """
    tokenizer, base, world = trio.tokenizer, trio.base, trio.world
    questions = world.questions("heldout", seed)[: plan.questions]
    curves: Rows = []
    grades: Rows = []

    def keep(run: str, kind: str, model: Any) -> Any:
        about = {"seed": seed, "run": run, "kind": kind}
        folder = out / (f"{run}-{kind}" if kind else run)
        curves.extend(about | row for row in curve_rows(Recording(folder)))
        grades.extend(about | row for row in upscaled(trio, model, questions))
        tick(folder.name)
        return model

    # The wrong values of "format" are watched during SFT too, where nobody trains on them.
    rows = preferences(world, "format", seed)[: plan.preferences]
    watched = probes(world, rows, plan.probes, "format", seed)
    sft = keep("sft", "", run_sft(base, tokenizer, rows, watched, out / "sft", plan, seed, extend=False))
    for kind in KINDS:
        rows = preferences(world, kind, seed)[: plan.preferences]
        if kind == "own":
            rows = with_own(rows, sft, tokenizer, seed)
        watched = probes(world, rows, plan.probes, kind, seed)
        options = (plan, seed)
        extended = run_sft(base, tokenizer, rows, watched, out / f"extended-{kind}", *options, extend=True)
        keep("extended", kind, extended)
        keep("dpo", kind, run_dpo(sft, tokenizer, rows, watched, out / f"dpo-{kind}", *options))
        again = run_dpo(extended, tokenizer, rows, watched, out / f"dpo-extended-{kind}", *options)
        keep("dpo-extended", kind, again)
    return curves, grades


def curve_rows(recording: Recording) -> Rows:
    """The statistics that the findings need, one row for each step, type and probe."""
    rows: Rows = []
    for response in recording.types:
        values = [recording.curve(response, name) for name in STATISTICS]  # each [steps, probes]
        for (s, p), _ in np.ndenumerate(values[0]):
            row = {"step": int(recording.steps[s]), "type": response, "probe": p}
            rows.append(row | {name: float(x[s, p]) for name, x in zip(STATISTICS, values, strict=True)})
    return rows
