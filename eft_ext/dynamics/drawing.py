"""Lines with their bands, panels, and coloured grids: parts of the pictures of `plots`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eft_ext._extras import needs
from eft_ext.dynamics.intervals import bootstrap

with needs("eft_ext.dynamics.plots", "plots"):
    from matplotlib.axes import Axes
    from matplotlib.colors import FuncNorm
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath
    from matplotlib.ticker import MaxNLocator

# Okabe and Ito's, which the colour-blind tell apart; yellow left out, faint on white, and grey in the place of black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
DASHES = ("-", "--", ":", "-.")
STYLES = math.lcm(len(COLOURS), len(DASHES))  # that differ where both change from line to line
_WRITTEN = 12  # columns of a grid up to which numbers fit into the cells
_DIVERGING = "RdBu_r"


def style(i: int) -> dict[str, Any]:
    """Colour and dashes of the i-th line."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}


def _width(names: Sequence[str], size: float) -> float:
    """The widest of them in inches, of type so many points high."""
    font = FontProperties(size=size)
    return max(TextToPath().get_text_width_height_descent(name, font, ismath=False)[0] for name in names) / 72


def span(curves: Sequence[np.ndarray]) -> float:
    """The longest way from the least to the largest finite value of a curve; NaN where none is finite."""
    finite = [curve[np.isfinite(curve)] for curve in curves]
    return max((float(np.ptp(curve)) for curve in finite if curve.size), default=math.nan)


def short(names: Sequence[str]) -> list[str]:
    """Names of at most 28 characters, which leave room for the data.

    Those that would become the same lose what all begin with, and are numbered where that is not enough.
    """
    found = [_without_middle(name) for name in names]
    if len(set(found)) < len(set(names)):
        start = len(os.path.commonprefix(list(names)))  # noqa: RUF071 - of names, not of paths
        found = [_without_middle(f"…{name[start:]}") for name in names]
    if len(set(found)) < len(set(names)):
        found = [f"{i}: {_without_middle(name, 23)}" for i, name in enumerate(names, 1)]
    # Matplotlib would leave out one that begins with an underscore.
    return [f" {name}" if name.startswith("_") else name for name in found]


def _without_middle(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 11]}…{name[-10:]}"


@np.errstate(invalid="ignore")  # an interval between infinities is NaN
def lines(axes: Axes, steps: np.ndarray, values: np.ndarray, label: str, **look: Any) -> None:
    """The mean of `values` [steps, members], and its bootstrap band.

    Args:
        look: of the line, as `style` returns.
    """
    bands = [bootstrap(row, draws=400) for row in values]
    axes.grid(alpha=0.2)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    dots: dict[str, Any] = {"marker": "o", "markersize": 2.5} if len(steps) < 9 else {}
    (line,) = axes.plot(steps, [b.mean for b in bands], label=label, linewidth=1.4, **dots, **look)
    low, high = [b.low for b in bands], [b.high for b in bands]
    axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def legend(figure: Figure, axes: Axes, **place: Any) -> None:
    """The lines of `axes`, outside of all axes."""
    handles, names = axes.get_legend_handles_labels()
    shown = figure.legend(handles, short(names), fontsize=8, frameon=False, **place)
    for text in shown.get_texts():
        text.set_parse_math(False)


def legend_above(figure: Figure, axes: Axes) -> None:
    """The same above all axes, in up to three columns; the figure grows by its rows."""
    _, names = axes.get_legend_handles_labels()
    columns = int(figure.get_figwidth() / (_width(short(names), 8) + 0.7))  # of which 0.7 inches are line and space
    columns = max(1, min(3, len(names), columns))
    figure.set_figheight(figure.get_figheight() + 0.17 * (math.ceil(len(names) / columns) - 1))
    legend(figure, axes, loc="outside upper center", ncols=columns, handlelength=3)


def panels(titles: Sequence[str], spans: Sequence[float]) -> tuple[Figure, list[Axes], bool]:
    """One panel for each title.

    Args:
        spans: from the least to the largest value of each, NaN where not known; where one is far beyond the others
            each panel has a scale of its own.

    Returns:
        The figure, its axes, and whether they share their scale.
    """
    columns = min(4, math.ceil(math.sqrt(len(titles))))
    rows = math.ceil(len(titles) / columns)
    names = short(titles)
    size = max(7.2, max(2.3, _width(names, 9) + 0.6) * columns + 0.6), max(3.6, 1.75 * rows + 0.9)
    known = [span for span in spans if np.isfinite(span)]
    shared = not known or max(known) <= 5 * float(np.median(known))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=shared, squeeze=False).ravel()
    for i, (axes, title) in enumerate(zip(grid, names, strict=False)):
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.tick_params(labelsize=8, labelbottom=i + columns >= len(titles))
    for axes in grid[len(titles) :]:
        axes.remove()
    return figure, list(grid[: len(titles)]), shared


def accumulated(grids: Mapping[str, tuple[np.ndarray, np.ndarray]], names: Sequence[str]) -> Figure:
    """Δ log π in nats by colour, one panel below the other; blue fell, red rose.

    Args:
        grids: (steps, Δ log π [names, steps]) by title.
        names: of the rows.
    """
    height = 0.5 + len(grids) * (0.6 + 0.3 * len(names))
    rows = short(names)
    figure = Figure(figsize=(6.1 + max(1.5, _width(rows, 8)), max(2.2, height)), layout="constrained")
    finite = np.concatenate([np.abs(grid[np.isfinite(grid)]) for _, grid in grids.values()])
    limit = float(finite.max(initial=0)) or 1.0
    # Most changes are a few nats, a rejected response's may be hundreds: colour by signed root.
    norm = FuncNorm((_root, _square), vmin=-limit, vmax=limit)
    column = figure.subplots(len(grids), 1, squeeze=False)[:, 0]
    for axes, title, (steps, grid) in zip(column, short(list(grids)), grids.values(), strict=True):
        image = axes.imshow(np.ma.masked_invalid(grid), cmap=_DIVERGING, norm=norm, aspect="auto")
        axes.set_yticks(range(len(names)), rows, fontsize=8, parse_math=False)
        shown = range(0, len(steps), math.ceil(len(steps) / _WRITTEN))
        axes.set_xticks(shown, [str(steps[i]) for i in shown], fontsize=8)
        axes.set_title(title, fontsize=9, parse_math=False)
        if len(steps) <= _WRITTEN:
            _write(axes, grid, limit)
    column[-1].set_xlabel("training step")
    bar = figure.colorbar(image, ax=list(column), pad=0.02)
    ends = [sign * float(f"{limit * part:.1g}") for sign in (-1, 1) for part in (0.3, 0.04)[: 1 + (height > 2.5)]]
    ticks = [-limit, *ends, limit]
    bar.set_ticks([*ticks, 0], labels=[*(f"{x:+.3g}" for x in ticks), "0"])
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=8)
    bar.set_label("Δ log π(response), nats\n(colour by signed root)", fontsize=8)
    return figure


def _root(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.sqrt(np.abs(x))


def _square(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.square(x)


def _write(axes: Axes, grid: np.ndarray, limit: float) -> None:
    """The numbers into their cells."""
    for (i, j), value in np.ndenumerate(grid):
        text = "0" if j == 0 == value else f"{value:+.1f}"
        text = {"-0.0": "0.0", "+0.0": "0.0", "+nan": "nan"}.get(text, text)
        color = "white" if 0.36 * limit < abs(value) <= limit else "black"
        axes.text(j, i, text, ha="center", va="center", fontsize=7, color=color)


def classes(grid: np.ndarray, names: Sequence[str], title: str, unit: str) -> Figure:
    """A square of influences, trained class by observed class; blue falls, red rises.

    Args:
        grid: [trained, observed].
        names: of the classes.
        unit: of the colour bar.
    """
    figure = Figure(figsize=(5.4, 4.5), layout="constrained")
    axes = figure.subplots()
    limit = float(abs(grid).max())
    image = axes.imshow(grid, cmap=_DIVERGING, vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=axes).set_label(unit)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="observed class", ylabel="trained class", title=title)
    return figure
