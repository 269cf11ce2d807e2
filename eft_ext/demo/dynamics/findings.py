"""The record's findings, beside what the paper reports for language models of real size.

A finding is seen when the 95 % interval over the probes of the first seed lies on its side of zero and the mean of
every seed does, too. What is not seen is said as plainly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eft_ext.demo.dynamics.data import KINDS
from eft_ext.demo.dynamics.record import StudyRecord
from eft_ext.demo.trio import EFT, TUNED
from eft_ext.dynamics import Interval, bootstrap

BELLS = ("chosen_paraphrase", "rejected", "irr_train", "irr_test")
FLUENT = {
    "responses to the prompt": ("chosen", "chosen_paraphrase", "chosen_plain", "rejected"),
    "responses to other prompts": ("irr_train", "irr_test", "cross_prompt"),
}
MODELS = (("sft", ""), *((run, kind) for kind in KINDS for run in ("dpo", "extended", "dpo-extended")))


@dataclass(frozen=True)
class Finding:
    """`figure` is the change in nats over the probes of the first seed; `agree` of `seeds` go as `text` says."""

    text: str
    seen: bool
    figure: Interval
    agree: int
    seeds: int

    def __str__(self) -> str:
        word = "seen    " if self.seen else "NOT seen"
        return f"{word}  {self.text}: {self.figure}, {self.agree} of {self.seeds} seeds"


def findings(record: StudyRecord) -> list[Finding]:
    """All of them, in the order of docs/guides/dynamics.md."""
    found = []
    for response in BELLS:
        peak = _peak(record, response)
        rise = _change(record, "sft", "", response, last=peak)
        fall = _change(record, "sft", "", response, first=peak)
        found.append(_finding(f"SFT: {response} first rises (to step {peak})", *rise, 1))
        found.append(_finding(f"SFT: {response} then falls", *fall, -1))
    trained, heldout = (_change(record, "sft", "", name) for name in ("irr_train", "irr_test"))
    more = trained[0] - heldout[0], trained[1] - heldout[1]
    found.append(_finding("SFT: irr_train rises more than irr_test", *more, 1))
    for kind in KINDS:
        for group, names in FLUENT.items():
            each = [_finding(name, *_change(record, "dpo", kind, name), -1) for name in names]
            # The one that supports it least stands for all.
            least = max(each, key=lambda f: (not f.seen, -f.agree, f.figure.mean))
            found.append(replace(least, text=f"DPO, {kind}: all {group} fall (least clearly {least.text})"))
    for kind in KINDS:
        top = _change(record, "dpo", kind, "rejected", "argmax_log_prob_mean")
        found.append(_finding(f"DPO, {kind}: the argmax along rejected rises", *top, 1))
    for kind in KINDS:
        for last in (20, 200):
            text = f"mitigation, {kind}, step {last}: chosen falls less or rises more"
            found.append(_finding(text, *_relief(record, kind, "chosen", "log_prob", last), 1))
        squeeze = _relief(record, kind, "rejected", "argmax_log_prob_mean", 200)
        found.append(_finding(f"mitigation, {kind}: the argmax along rejected rises less or falls", *squeeze, -1))
    return found


def _finding(text: str, probes: np.ndarray, seeds: np.ndarray, sign: int) -> Finding:
    figure = bootstrap(probes)
    agree = int((np.sign(seeds) == sign).sum())
    return Finding(text, figure.sign == sign and agree == len(seeds), figure, agree, len(seeds))


def _change(
    record: StudyRecord,
    run: str,
    kind: str,
    response: str,
    statistic: str = "log_prob",
    first: int = 0,
    last: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Between two steps: of each probe of the first seed, and of each seed's mean."""
    found = []
    for probe in (True, False):
        steps, values = record.curve(run, kind, response, statistic, probe)
        end = -1 if last is None else abs(steps - last).argmin()  # the nearest record
        found.append(values[end] - values[abs(steps - first).argmin()])
    return found[0], found[1]


def _relief(record: StudyRecord, kind: str, response: str, statistic: str, last: int) -> tuple[np.ndarray, np.ndarray]:
    """The change with the mitigation less the change without."""
    runs = [_change(record, run, kind, response, statistic, last=last) for run in ("dpo-extended", "dpo")]
    return runs[0][0] - runs[1][0], runs[0][1] - runs[1][1]


def _peak(record: StudyRecord, response: str) -> int:
    """The recorded step at which the mean of all seeds is largest, the first and the last left out."""
    steps, values = record.curve("sft", "", response, probe=False)
    return int(steps[1:-1][values[1:-1].mean(1).argmax()])


def table(record: StudyRecord) -> Iterator[Sequence[str]]:
    """Compares each tuned model alone and through EFT: means over seeds and questions, with 95 % intervals over
    both."""
    yield "tuned by", "rejected", "who", "facts %", "format %", "log π of the right answer", "log p_max per token"
    for run, kind in MODELS:
        for who in (TUNED, EFT):
            cells = []
            for name, scale, digits in (
                ("fact", 100, 1),
                ("format", 100, 1),
                ("log_prob", 1, 2),
                ("confidence", 1, 3),
            ):
                mean, low, high = (scale * x for x in bootstrap(record.grade(run, kind, who, name)))
                cells.append(f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})")
            yield _NAMES[run], kind, who, *cells


_NAMES = {"sft": "SFT", "dpo": "SFT, DPO", "extended": "extended SFT", "dpo-extended": "extended SFT, DPO"}


def costs(record: StudyRecord) -> Iterator[str]:
    """Says what EFT loses or gains by each step of tuning, question by question."""
    for kind in KINDS:
        for run, against, of in (("dpo", "sft", ""), ("dpo-extended", "sft", ""), ("dpo-extended", "dpo", kind)):
            figures = []
            for name in ("fact", "format"):
                difference = record.grade(run, kind, EFT, name) - record.grade(against, of, EFT, name)
                figures.append(f"{name}s {_points(bootstrap(difference))}".replace("formats", "format"))
            yield f"EFT, {kind}: {_NAMES[run]} less {_NAMES[against]}: {', '.join(figures)}"


def _points(x: Interval) -> str:
    return f"{100 * x.mean:+.1f} ({100 * x.low:+.1f} to {100 * x.high:+.1f}) points"


def report(record: StudyRecord) -> Iterator[str]:
    """Everything, as lines of text."""
    yield from map(str, findings(record))
    yield ""
    yield from costs(record)
