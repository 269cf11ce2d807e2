"""Pictures of recordings and decompositions. Each function returns a matplotlib `Figure`; `save` writes PNG, SVG or
PDF."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from eft_ext._extras import needs
from eft_ext._files import PICTURES, save_figure
from eft_ext.dynamics.decompose import Verification
from eft_ext.dynamics.recording import Recording

with needs("eft_ext.dynamics.plots", "plots"):
    from matplotlib.figure import Figure

    from eft_ext.dynamics.drawing import (
        COLOURS,
        DASHES,
        STYLES,
        accumulated,
        legend,
        legend_above,
        lines,
        panels,
        span,
        style,
    )

_TOGETHER = 4  # types whose bands can be told apart in one panel
_LABELS = {
    "log_prob": "log π(response), nats",
    "log_prob_mean": "log π per token, nats",
    "argmax_log_prob": "log p_max summed over tokens, nats",
    "argmax_log_prob_mean": "log p_max per token, nats",
    "log_rest_mean": "log(1 − p_max) per token, nats",
    "entropy_mean": "entropy per token, nats",
}


def save(figure: Figure, path: str | Path) -> None:
    """Writes a figure. Raises ValueError for an ending other than .png, .svg or .pdf."""
    check_format(path)
    save_figure(figure, path, dpi=150, metadata={"Date": None} if Path(path).suffix == ".svg" else None)


def check_format(path: str | Path) -> None:
    """Raises ValueError for what `save` could not write."""
    if Path(path).suffix not in PICTURES:
        raise ValueError(f"path: expected a name ending in {', '.join(PICTURES)}, got {path}")


@np.errstate(invalid="ignore")  # −∞ less −∞ is NaN
def curves(
    recording: Recording | Sequence[Recording],
    statistic: str = "log_prob_mean",
    types: str | Sequence[str] | None = None,
    change: bool = False,
) -> Figure:
    """Plots one line per type of response over training steps: the mean over probes with its 95 % bootstrap band.

    Several recordings, or more than four types, get one panel per type and one line per recording, named by its folder.

    Args:
        recording: one, or several to compare. They may have other probes and steps.
        statistic: as in `Recording.curve`.
        types: one or several; all that every recording has if None.
        change: draw the difference from each recording's first record.

    Raises:
        ValueError: no such type or statistic; recordings that share no type, one given twice, or more of them than
            lines can be told apart.
        TypeError: not a recording.
    """
    runs = _runs(recording)
    if len(runs) > STYLES:
        raise ValueError(f"recording: expected at most {STYLES}, whose lines can be told apart, got {len(runs)}")
    names = _shared(runs, types)
    label = f"{'change of ' if change else ''}{_LABELS.get(statistic, statistic)}"
    found = [[run.curve(name, statistic) for run in runs.values()] for name in names]
    if change:
        found = [[values - values[0] for values in each] for each in found]
    if len(runs) == 1 and len(names) <= _TOGETHER:
        (only,) = runs.values()
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        for i, (name, (values,)) in enumerate(zip(names, found, strict=True)):
            lines(axes, only.steps, values, name, **style(i))
        axes.set(xlabel="training step", ylabel=label)
        legend(figure, axes, loc="outside right upper")
        return figure
    figure, grid, shared = panels(names, [span([values.mean(1) for values in each]) for each in found])
    for axes, each in zip(grid, found, strict=True):
        for i, ((name, run), values) in enumerate(zip(runs.items(), each, strict=True)):
            lines(axes, run.steps, values, name, **style(i) | {"linestyle": DASHES[i % len(DASHES)]})
    figure.supxlabel("training step", fontsize=10)
    figure.supylabel(label if shared else f"{label}\n(each panel has its own scale)", fontsize=10)
    if len(runs) > 1:
        legend_above(figure, grid[0])
    return figure


def confidence(
    recording: Recording | Sequence[Recording], types: str | Sequence[str] | None = None, change: bool = False
) -> Figure:
    """Plots log p_max per token, the model's confidence. It rises when probability is squeezed.

    Arguments and errors are those of `curves`.
    """
    return curves(recording, "argmax_log_prob_mean", types, change)


@np.errstate(invalid="ignore")
def influence(recording: Recording | Sequence[Recording], types: str | Sequence[str] | None = None) -> Figure:
    """Plots the accumulated influence of training: Δ log π since the first record, types by steps.

    Blue is a fall, red a rise; each recording has its panel. Arguments and errors are those of `curves`.
    """
    runs = _runs(recording)
    names = _shared(runs, types)
    grids = {}
    for name, run in runs.items():
        means = np.array([run.curve(response).mean(1) for response in names])
        grids[name if len(runs) > 1 else ""] = run.steps, means - means[:, :1]
    return accumulated(grids, names)


def scatter(verification: Verification) -> Figure:
    """Plots predicted against actual Δ log π of every observed token, one panel for each learning rate."""
    n = len(verification.lrs)
    figure = Figure(figsize=(3.2 * n + 0.3, 3.5), layout="constrained")
    for axes, lr, x, y, error in zip(
        figure.subplots(1, n, squeeze=False)[0],
        verification.lrs.tolist(),
        verification.predicted.cpu().numpy(),
        verification.actual.cpu().numpy(),
        verification.error.tolist(),
        strict=True,
    ):
        ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
        axes.plot(ends, ends, color="grey", linewidth=0.8)
        axes.scatter(x, y, s=10, alpha=0.5, linewidths=0, color=COLOURS[0])
        axes.set_title(f"lr = {lr:g}: error ≤ {error:.1e} nats", fontsize=10)
        axes.set(xlabel="predicted Δ log π, nats", ylabel="actual Δ log π, nats", aspect="equal")
        axes.locator_params(nbins=5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.tick_params(labelsize=8)
    figure.suptitle("One dot per token; on the grey line, as predicted. Each panel has its own scale.", fontsize=9)
    return figure


def _runs(recording: Recording | Sequence[Recording]) -> dict[str, Recording]:
    """By the names of their folders, or by their paths where two have one name."""
    runs = [recording] if isinstance(recording, str) or not isinstance(recording, Iterable) else list(recording)
    if not runs:
        raise ValueError("recording: expected at least one, got none")
    for run in runs:
        if not isinstance(run, Recording):
            raise TypeError(f"recording: expected a Recording, or several, got {run!r}")
    folders = Counter(os.path.realpath(run.path) for run in runs)
    (folder, times), *_ = folders.most_common(1)
    if times > 1:
        raise ValueError(f"recording: expected different ones, got {folder} {times} times")
    names = [run.path.resolve().name for run in runs]
    return dict(zip(names if len(set(names)) == len(names) else [str(run.path) for run in runs], runs, strict=True))


def _shared(runs: dict[str, Recording], types: str | Sequence[str] | None) -> list[str]:
    """The types that all recordings have, or those of them that were asked for, each once."""
    first, *others = runs.values()
    shared = [name for name in first.types if all(name in run.types for run in others)]
    if not shared:
        have = "; ".join(f"{name} has {', '.join(run.types)}" for name, run in runs.items())
        raise ValueError(f"recording: expected a type of response that all have, got none: {have}")
    wanted = [types] if isinstance(types, str) else list(dict.fromkeys(types or shared))
    for name in wanted:
        if name not in shared:
            raise ValueError(f"types: expected one of {', '.join(shared)}, got {name!r}")
    return wanted
