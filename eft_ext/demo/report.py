"""The demonstration's table, its verdict in words, its JSON and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eft_ext._extras import needs
from eft_ext._files import save_figure
from eft_ext.demo.evaluate import OPEN, Claim, ModelFigures, claims
from eft_ext.demo.grade import Proportion
from eft_ext.demo.trio import EFT, LARGE, ORACLE, TUNED


@dataclass(frozen=True)
class Measured:
    """One mode's table and what it shows."""

    mode: str
    rows: list[ModelFigures]

    @property
    def claims(self) -> list[Claim]:
        return claims(self.rows)

    @property
    def holds(self) -> bool:
        return all(claim.holds for claim in self.claims)

    @property
    def refuted(self) -> bool:
        return any(not claim.holds and not claim.possible for claim in self.claims)


def _percent(p: Proportion) -> str:
    low, high = p.interval
    return f"{100 * p.value:.1f} % [dim]({100 * low:.1f}-{100 * high:.1f})[/dim]"


def show(measured: Measured, console: Console) -> None:
    """The table, then a line per claim."""
    n = measured.rows[0].facts.n
    table = Table(
        "model",
        "facts right",
        "format kept",
        "KL(oracle || model)\nnats per token",
        "tokens/s",
        title=f"{n} held-out questions, {measured.mode} (95 % intervals)",
    )
    for row in measured.rows:
        style = "bold" if row.model == EFT else None
        figures = (_percent(row.facts), _percent(row.format), f"{row.kl:.4f}", f"{row.speed:,.0f}")
        table.add_row(row.model, *figures, style=style)
    console.print(table)
    show_claims(measured.claims, console)


def show_claims(claims: Sequence[Claim], console: Console) -> None:
    colours = {"holds": "green", "open": "yellow", "FAILS": "red"}
    for claim in claims:
        console.print(f"  [{colours[claim.word]}]{claim.word:5s}[/]  {claim.text}", highlight=False)


def verdict(results: Sequence[Measured]) -> str:
    """One line in words, from the figures."""
    lines = []
    for measured in results:
        row = {r.model: r for r in measured.rows}
        know = f"{100 * row[EFT].facts.value:.0f} % facts and {100 * row[EFT].format.value:.0f} % format"
        others = ", ".join(
            f"{name} {100 * row[name].facts.value:.0f}/{100 * row[name].format.value:.0f}"
            for name in (LARGE, TUNED, ORACLE)
        )
        lines.append(f"{measured.mode}: EFT gets {know} ({others})")
    whole = all(m.holds for m in results)
    end = (
        "so it has the large model's knowledge and the small one's manners without training the large one"
        if whole
        else OPEN
        if not any(m.refuted for m in results)
        else "which does NOT show all of what it should: see the claims that fail"
    )
    return "; ".join(lines) + f": {end}."


def as_share(p: Proportion) -> dict[str, Any]:
    """A proportion as JSON."""
    return {"k": p.k, "n": p.n, "value": p.value, "interval": list(p.interval)}


def as_claim(claim: Claim) -> dict[str, Any]:
    """A claim as JSON; one that does not hold is decided where the intervals exclude it."""
    return {"text": claim.text, "holds": claim.holds, "decided": claim.holds or not claim.possible}


def as_dict(results: Sequence[Measured], answers: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "modes": [
            {
                "mode": m.mode,
                "models": {
                    r.model: {
                        "facts": as_share(r.facts),
                        "format": as_share(r.format),
                        "kl_from_oracle": r.kl,
                        "tokens_per_second": r.speed,
                    }
                    for r in m.rows
                },
                "claims": [as_claim(c) for c in m.claims],
            }
            for m in results
        ],
        "verdict": verdict(results),
        "answers": answers,
    }


def plot(results: Sequence[Measured], path: Path) -> None:
    """Facts against format, one point per model and one panel per mode, with 95 % intervals."""
    with needs("the picture", "plots"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(results), 4.2), layout="constrained")
    marks = dict(zip((LARGE, TUNED, EFT, ORACLE), "sDox", strict=True))  # the last two lie on top of each other
    for axes, measured in zip(figure.subplots(1, len(results), squeeze=False)[0], results, strict=True):
        for row in measured.rows:
            (x, xerr), (y, yerr) = _bar(row.facts), _bar(row.format)
            axes.errorbar([x], [y], xerr=xerr, yerr=yerr, fmt=marks[row.model], capsize=2, label=row.model)
        axes.set(title=measured.mode, xlabel="facts right, %", ylabel="format kept, %", xlim=(-5, 105), ylim=(-5, 105))
        axes.legend(loc="center")
    save_figure(figure, path, dpi=150)


def _bar(p: Proportion) -> tuple[float, list[list[float]]]:
    """The share in percent and how far its interval reaches down and up."""
    low, high = p.interval
    return 100 * p.value, [[100 * (p.value - low)], [100 * (high - p.value)]]
