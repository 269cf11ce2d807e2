"""The demonstration itself: what `eft demo` runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from eft_ext import _json
from eft_ext.demo.evaluate import ask_all, divergences, tabulate
from eft_ext.demo.grade import Grader
from eft_ext.demo.report import Measured, as_dict, plot, show, verdict
from eft_ext.demo.stream import stream
from eft_ext.demo.trio import GREEDY, ORACLE, SAMPLED, UNFILTERED, Mode, Trio, load_trio
from eft_ext.demo.world import Question


def measure(
    trio: Trio,
    questions: list[Question],
    mode: Mode,
    beta: float = 1.0,
    seed: int = 0,
    tick: Callable[[int], object] = lambda answered: None,
) -> Measured:
    """Asks the four models everything and grades the answers. `tick` is called for each batch of answers."""
    torch.manual_seed(seed)
    answers, seconds = {}, {}
    for name, answerer in trio.answerers(mode, beta).items():
        answers[name], seconds[name] = ask_all(answerer, questions, tick)
    kl = divergences(trio, questions, answers[ORACLE], beta)
    rows = tabulate(answers, seconds, kl, questions, Grader(trio.world), trio.tokenizer)
    return Measured(mode.name, rows)


def run_demo(
    *,
    questions: int = 500,
    shown: int | None = None,
    sampled: bool = True,
    unfiltered: bool = False,
    seed: int = 0,
    beta: float = 1.0,
    models: Path | None = None,
    as_json: bool = False,
    json_path: Path | None = None,
    plot_path: Path | None = None,
    console: Console | None = None,
) -> bool:
    """Streams a few answers side by side, then prints the table and says whether it shows what it should.

    Args:
        questions: how many held-out questions the table is over.
        shown: how many of them are answered side by side first; 4 if None.
        sampled: also measure sampled answers, at temperature 0.7 and top-p 0.9.
        unfiltered: also measure answers sampled at temperature 1 without filters.
        seed: of the choice of questions and of sampling.
        beta: weight of the small pair's difference.
        models: folder made by `python -m eft_ext.demo.train`; the shipped models if None.
        as_json: print one JSON object and nothing else.
        json_path, plot_path: write the JSON object or a PNG there as well.

    Returns:
        Whether no claim is refuted: each holds, or questions are too few to tell.

    Raises:
        ValueError: a count out of range.
    """
    trio = load_trio(models)
    chosen, first = trio.held_out(questions, shown, seed)
    console = console or Console()
    screen = Console(quiet=True) if as_json else console
    streamed = stream(trio, first, GREEDY, beta, screen) if first else []
    modes = [GREEDY] + [SAMPLED] * sampled + [UNFILTERED] * unfiltered
    results = []
    for mode in modes:
        with Progress(console=screen, transient=True) as progress:
            bar = progress.add_task(f"{questions} questions, {mode.name}", total=4 * questions)
            results.append(measure(trio, chosen, mode, beta, seed, partial(progress.advance, bar)))
        show(results[-1], screen)
    screen.print(f"\n{verdict(results)}", highlight=False)
    report = as_dict(results, streamed)
    if as_json:
        console.print_json(_json.dumps(report))
    if json_path:
        _json.write(json_path, report, indent=2)
    if plot_path:
        plot(results, plot_path)
    return not any(m.refuted for m in results)
