"""Pictures of recordings and decompositions. Each function returns a matplotlib `Figure`; `save` writes PNG, SVG or
PDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eft_ext._extras import needs
from eft_ext._files import PICTURES, save_figure
from eft_ext.dynamics.decompose import Verification
from eft_ext.dynamics.intervals import bootstrap
from eft_ext.dynamics.recording import Recording

with needs("eft_ext.dynamics.plots", "plots"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELS = {
    "log_prob": "log π(response), nats",
    "log_prob_mean": "log π per token, nats",
    "argmax_log_prob_mean": "log p_max per token, nats",
    "log_rest_mean": "log(1 − p_max) per token, nats",
    "entropy_mean": "entropy per token, nats",
}


def save(figure: Figure, path: str | Path) -> None:
    """Whole or not at all. Raises ValueError for an ending other than .png, .svg or .pdf."""
    check_format(path)
    save_figure(figure, path, dpi=150, metadata={"Date": None} if Path(path).suffix == ".svg" else None)


def check_format(path: str | Path) -> None:
    """Raises ValueError for what `save` could not write."""
    if Path(path).suffix not in PICTURES:
        raise ValueError(f"path: expected a name ending in {', '.join(PICTURES)}, got {path}")


def curves(
    recording: Recording,
    statistic: str = "log_prob_mean",
    types: Sequence[str] | None = None,
    change: bool = False,
) -> Figure:
    """One line per type of response, the mean over probes with its 95 % bootstrap band, over training steps.

    Args:
        statistic: as in `Recording.curve`.
        types: all of them if None.
        change: draw the difference from the first record.

    Raises:
        ValueError: no such type or statistic.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in _known(recording, types):
        values = recording.curve(name, statistic)
        lines(axes, recording.steps, values - values[0] if change else values, name)
    label = _LABELS.get(statistic, statistic)
    axes.set(xlabel="training step", ylabel=f"change of {label}" if change else label)
    _legend(figure, axes)
    return figure


def confidence(recording: Recording, types: Sequence[str] | None = None) -> Figure:
    """How sure the model is along each type of response: log p_max per token. It rises when probability is squeezed."""
    return curves(recording, "argmax_log_prob_mean", types)


def lines(axes: Axes, steps: np.ndarray, values: np.ndarray, label: str) -> None:
    """The mean of `values` [steps, members], and its bootstrap band."""
    bands = [bootstrap(row, draws=400) for row in values]
    (line,) = axes.plot(steps, [b.mean for b in bands], label=label, linewidth=1.6)
    axes.fill_between(
        steps, [b.low for b in bands], [b.high for b in bands], color=line.get_color(), alpha=0.15, linewidth=0
    )


def influence(recording: Recording, types: Sequence[str] | None = None) -> Figure:
    """The accumulated influence of training: Δ log π since the first record, types by steps; blue fell, red rose."""
    names = _known(recording, types)
    rows = [(c := recording.curve(name, "log_prob")).mean(1) - c[0].mean() for name in names]
    return accumulated(np.array(rows), names, recording.steps)


def accumulated(grid: np.ndarray, names: Sequence[str], steps: Sequence[int] | np.ndarray) -> Figure:
    """The same of Δ log π [types, steps]."""
    figure = Figure(figsize=(7.2, 0.8 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    # Most changes are a few nats, a rejected response's may be hundreds: colour by signed root.
    shown = np.sign(grid) * np.sqrt(abs(grid))
    limit = max(1e-9, float(abs(shown).max()))
    axes.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (i, j), value in np.ndenumerate(grid):
        dark = abs(shown[i, j]) > 0.6 * limit
        axes.text(
            j,
            i,
            f"{value:+.1f}" if j else "0",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if dark else "black",
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(steps)), [str(s) for s in steps])
    axes.set(xlabel="training step", title="accumulated Δ log π, nats per response")
    return figure


def scatter(verification: Verification) -> Figure:
    """Predicted against actual Δ log π of every observed token, one panel for each learning rate."""
    n = len(verification.lrs)
    figure = Figure(figsize=(3.4 * n, 3.6), layout="constrained")
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
        axes.scatter(x, y, s=10, alpha=0.6, linewidths=0)
        axes.set(title=f"lr = {lr:g}, error ≤ {error:.2g}", xlabel="predicted Δ log π, nats", ylabel="actual")
        axes.ticklabel_format(scilimits=(-2, 2))
    return figure


def classes(grid: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """A square of influences, trained class by observed class; blue falls, red rises.

    Args:
        grid: [trained, observed].
        names: of the classes.
    """
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.subplots()
    limit = float(abs(grid).max())
    image = axes.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=axes)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="observed class", ylabel="trained class", title=title)
    return figure


def _known(recording: Recording, types: Sequence[str] | None) -> list[str]:
    for name in types or ():
        recording.rows_of(name, "types")
    return list(types or recording.types)


def _legend(figure: Figure, axes: Axes) -> None:
    axes.grid(alpha=0.2)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
