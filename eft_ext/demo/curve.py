"""The interpolation's answers side by side, its table, JSON and plot."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from eft_ext import _json
from eft_ext._extras import needs
from eft_ext._files import save_figure
from eft_ext.demo.evaluate import OPEN
from eft_ext.demo.grade import Proportion
from eft_ext.demo.interpolation import LARGE, SMALL, Curve, answer, claims, emulated, measure
from eft_ext.demo.report import as_claim, as_share, show_claims
from eft_ext.demo.trio import UNFILTERED, Mode, load_talkative, load_trio

SIDE_BY_SIDE = (0.0, 0.5, 1.0)


def run_interpolation(
    *,
    questions: int = 500,
    shown: int | None = None,
    seed: int = 0,
    models: Path | None = None,
    console: Console | None = None,
    as_json: bool = False,
    json_path: Path | None = None,
    plot_path: Path | None = None,
) -> bool:
    """Shows answers at three shares, then the curve over eleven, on the large model and on the small base.

    Answers are sampled at temperature 1.

    Args:
        questions: held-out questions that every share is measured on.
        shown: how many are answered side by side first; 4 if None.
        seed: of the choice of questions and of sampling.
        models: folder made by `python -m eft_ext.demo.train`; the shipped models if None.
        as_json: print one JSON object and nothing else.
        json_path, plot_path: write the JSON object or a PNG there as well.

    Returns:
        Whether no claim is refuted: each holds, or questions are too few to tell.

    Raises:
        ValueError: a count out of range, or models without a second behaviour.
    """
    trio, talkative = load_trio(models), load_talkative(models)
    chosen, first = trio.held_out(questions, shown, seed)
    console = console or Console()
    screen = Console(quiet=True) if as_json else console
    mode = UNFILTERED  # what is interpolated is a distribution, and this is it
    answers = []
    if first:
        each = answer(emulated(trio, talkative, LARGE), first, SIDE_BY_SIDE, mode, seed)
        table = Table("held-out question", *(f"λ = {share:g}" for share in SIDE_BY_SIDE), show_lines=True)
        for question, texts in zip(first, each, strict=True):
            said = [text.strip() for text in texts]
            table.add_row(f"{question.text}\n[dim]{question.answer}[/dim]", *said)
            answers.append({"question": question.text, "answer": question.answer} | _by_share(said))
        screen.print(table)
    curves = []
    with Progress(console=screen, transient=True) as progress:
        for on in (LARGE, SMALL):
            bar = progress.add_task(f"11 shares on the {on}, {mode.name}", total=questions)
            tick = partial(progress.advance, bar)
            curves.append(measure(trio, talkative, on, chosen, mode, seed=seed, tick=tick))
    show(curves, mode, screen)
    report = as_dict(curves, mode) | {"answers": answers}
    if as_json:
        console.print_json(_json.dumps(report))
    if json_path:
        _json.write(json_path, report, indent=2)
    if plot_path:
        plot(curves, mode, plot_path)
    return not any(claim.word == "FAILS" for claim in claims(curves))


def _by_share(texts: list[str]) -> dict[str, str]:
    return {f"{share:g}": text for share, text in zip(SIDE_BY_SIDE, texts, strict=True)}


def show(curves: list[Curve], mode: Mode, console: Console) -> None:
    """The table over λ, then a line per claim."""
    large, small = curves
    table = Table(
        "λ polite",
        "polite",
        "talkative",
        "facts right",
        "further fact right,\n% of the talkative",
        "facts right on\nthe small base",
        title=f"{large.points[0].facts.n} questions at every λ, {mode.name}: % (95 % intervals)",
    )
    for a, b in zip(large.points, small.points, strict=True):
        table.add_row(f"{a.share:g}", *map(_cell, (a.polite, a.talkative, a.facts, a.further, b.facts)))
    console.print(table)
    found = claims(curves)
    show_claims(found, console)
    words = {claim.word for claim in found}
    if "open" in words and "FAILS" not in words:
        console.print(f"\n{OPEN}.", highlight=False)


def _cell(p: Proportion | None) -> str:
    """Whole percents, so that six columns fit into a terminal."""
    if p is None:
        return ""
    low, high = p.interval
    return f"{100 * p.value:.0f} [dim]({100 * low:.0f}-{100 * high:.0f})[/dim]"


def as_dict(curves: list[Curve], mode: Mode) -> dict[str, Any]:
    measured = ("polite", "talkative", "facts", "further")
    return {
        "mode": mode.name,
        "curves": {
            curve.on: [
                {"lambda": p.share} | {n: as_share(x) for n in measured if (x := getattr(p, n))} for p in curve.points
            ]
            for curve in curves
        },
        "claims": [as_claim(claim) for claim in claims(curves)],
    }


def plot(curves: list[Curve], mode: Mode, path: Path) -> None:
    """Left the behaviours over λ, right the trade-off: one against the other, coloured by the facts that are right."""
    with needs("the picture", "plots"):
        from matplotlib.figure import Figure

    large, small = curves
    n = large.points[0].facts.n
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    shares = [point.share for point in large.points]
    lines = (
        ("polite", [p.polite for p in large.points], "C0", "o-"),
        ("talkative", [p.talkative for p in large.points], "C1", "s-"),
        ("facts right", [p.facts for p in large.points], "C2", "D-"),
        ("facts, small base", [p.facts for p in small.points], "C7", "D:"),
    )
    for name, values, colour, style in lines:
        low, high = zip(*(value.interval for value in values), strict=True)
        left.fill_between(shares, [100 * x for x in low], [100 * x for x in high], color=colour, alpha=0.2, lw=0)
        left.plot(shares, [100 * v.value for v in values], style, color=colour, label=name, markersize=4)
    left.set(xlabel="λ, share of the polite behaviour", ylabel="% of answers", ylim=(-4, 104))
    left.legend(loc="center right", fontsize=8)
    for curve, mark in ((small, "s"), (large, "o")):
        x, y = ([100 * getattr(p, name).value for p in curve.points] for name in ("talkative", "polite"))
        facts = [100 * p.facts.value for p in curve.points]
        right.plot(x, y, "-", color="0.8", zorder=1)
        dots = right.scatter(x, y, c=facts, vmin=0, vmax=100, cmap="viridis", marker=mark, label=curve.on, zorder=2)
    for point, a, b in list(zip(large.points, x, y, strict=True))[2:-2]:  # the ends lie on top of each other
        right.annotate(f"λ = {point.share:g}", (a, b), textcoords="offset points", xytext=(7, 4), fontsize=8)
    right.legend(title="behaviours put on", loc="lower left", fontsize=8, title_fontsize=8)
    right.set(xlabel="talkative, %", ylabel="polite, %", xlim=(-5, 108), ylim=(-5, 108))
    figure.colorbar(dots, label="facts right, %")
    figure.suptitle(f"Behaviours of two small models: {n} held-out questions at every λ, {mode.name}", fontsize=10)
    save_figure(figure, path, dpi=150)
