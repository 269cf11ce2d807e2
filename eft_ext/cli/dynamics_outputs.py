"""Words, tables and warnings of `eft dynamics`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from eft_ext._json import dumps
from eft_ext._text import printable

if TYPE_CHECKING:
    from eft_ext.dynamics import ProbeSet, Recording, Verification


def read(path: Path, remedy: str = "") -> Recording:
    """A recording; where training diverged a warning names it, the step, and the remedy."""
    import numpy as np

    from eft_ext.dynamics import Recording

    recording = Recording(path)
    curves = np.concatenate([recording.curve(name) for name in recording.types], axis=1)
    lost = recording.steps[~np.isfinite(curves).all(axis=1)]
    if len(lost):
        since = f"training diverged: log π is not finite from step {lost[0]} on"
        warnings.warn(f"{printable(path)}: {since}{remedy}", stacklevel=2)
    return recording


def watched(probes: ProbeSet, quiet: bool) -> None:
    """Says on stderr how many responses of which types are watched, and how many probes lack one."""
    if not quiet:
        typer.secho(str(probes), dim=True, err=True)


def by_type(probes: ProbeSet, result: Verification) -> Iterator[dict[str, Any]]:
    """Means over the probes of each type, for each learning rate."""
    names = [name for _, name, _, _ in probes.rows()]
    error = (result.actual - result.predicted).abs()
    for i, lr in enumerate(result.lrs.tolist()):
        predicted, actual = (result.observed.sums(x[i]) for x in (result.predicted, result.actual))
        worst = [float(x.max()) for x in result.observed.split(error[i])]
        for name in probes.types:
            rows = [r for r, other in enumerate(names) if other == name]
            figures = {"predicted": float(predicted[rows].mean()), "actual": float(actual[rows].mean())}
            yield {"lr": lr, "type": name, **figures, "error": max(worst[r] for r in rows)}


def show_change(found: dict[str, Any], as_json: bool, title: str, figures: dict[str, float]) -> None:
    if as_json:
        typer.echo(dumps(found, indent=2))
        return
    typer.echo(f"{title}, last record less the first ({printable(found['recording'])}):")
    for name, value in figures.items():
        typer.echo(f"  {name:24s} {value:+9.3f}")
    if "verdict" in found:
        typer.echo(found["verdict"])
