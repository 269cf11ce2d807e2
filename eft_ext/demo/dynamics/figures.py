"""The pictures of docs/dynamics.md: `python -m eft_ext.demo.dynamics.figures --record DIR --out DIR`."""

from __future__ import annotations

from pathlib import Path

import torch

from eft_ext._errors import Parser, command, one_line
from eft_ext._extras import needs
from eft_ext._files import check_folder, save_figure

with command(__name__), needs("eft_ext.demo.dynamics.figures", "dynamics", "plots"):
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from eft_ext.demo.dynamics.data import KINDS, as_pairs, preferences, probes
    from eft_ext.demo.dynamics.digits import class_influence, classifier, draw_digits
    from eft_ext.demo.dynamics.record import Record
    from eft_ext.demo.trio import EFT, TUNED, load_trio
    from eft_ext.dynamics import DPO, bootstrap, plots, verify

_SHOWN = ("chosen", "chosen_paraphrase", "chosen_plain", "rejected", "irr_train", "irr_test", "cross_prompt")
_RUNS = {"sft": "SFT", "dpo": "SFT, DPO", "dpo-extended": "extended SFT, DPO"}


def sft(record: Record) -> Figure:
    """Change of log π by type of response during SFT; the first seed's probes."""
    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=(1, 1))
    for response in _SHOWN:
        steps, values = record.curve("sft", "", response)
        plots.lines(axes[0], steps, values - values[0], response)
        plots.lines(axes[1], steps[:8], (values - values[0])[:8], response)
    axes[0].set(xlabel="training step", ylabel="change of log π(response), nats", title="SFT on chosen")
    axes[1].set(xlabel="training step", ylim=(-4, 4), title="its beginning")
    _finish(figure, axes)
    return figure


def dpo(record: Record) -> Figure:
    """Change of log π, and the argmax along rejected, for each kind of rejected, with and without the mitigation."""
    figure = Figure(figsize=(9.6, 8.4), layout="constrained")
    grid = figure.subplots(3, 3, sharex=True)
    for column, kind in enumerate(KINDS):
        for row, run in enumerate(("dpo", "dpo-extended")):
            axes = grid[row, column]
            for response in _SHOWN:
                steps, values = record.curve(run, kind, response)
                if response == "rejected" and kind != "own":
                    axes.plot(
                        steps, (values - values[0]).mean(1), label="rejected", linewidth=1.6
                    )  # leaves the picture
                else:
                    plots.lines(axes, steps, values - values[0], response)
            axes.set(ylim=(-9, 4))
            axes.set_title(f"{_RUNS[run]}; rejected: {kind}", fontsize=10)
            top = record.curve(run, kind, "rejected", "argmax_log_prob_mean")[1]
            plots.lines(grid[2, column], steps, top - top[0], _RUNS[run])
        grid[2, column].set(xlabel="DPO step")
        grid[2, column].set_title(f"argmax along rejected: {kind}", fontsize=10)
        grid[2, column].legend(fontsize=8, frameon=False)
    for row in (0, 1):
        grid[row, 0].set(ylabel="change of log π(response), nats")
    grid[2, 0].set(ylabel="change of log p_max per token")
    _finish(figure, [grid[0, 2]])
    return figure


def upscaled(record: Record) -> Figure:
    """Facts and format of the small tuned models alone and carried over by EFT."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("fact", "format"), strict=True):
        models = [("sft", ""), *((run, kind) for kind in KINDS for run in ("dpo", "dpo-extended"))]
        for offset, who in ((-0.12, TUNED), (0.12, EFT)):
            for x, (run, kind) in enumerate(models):
                mean, low, high = (100 * v for v in bootstrap(record.grade(run, kind, who, name), draws=500))
                color = "tab:orange" if who == TUNED else "tab:blue"
                label = who if x == 0 else None
                bar = [[mean - low], [high - mean]]
                axes.errorbar([x + offset], [mean], bar, fmt="o", color=color, capsize=2, label=label, markersize=4)
        labels = [f"{_RUNS[run]}\n{kind}" for run, kind in models]
        axes.set_xticks(range(len(models)), labels, rotation=60, ha="right", fontsize=7)
        axes.set(title={"fact": "facts right, %", "format": "format kept, %"}[name], ylim=(-3, 103))
        axes.grid(alpha=0.2)
        axes.legend(fontsize=8, frameon=False)
    return figure


def influence(record: Record) -> Figure:
    """Accumulated Δ log π during DPO on fluent rejected responses; the first seed's mean over probes."""
    curves = [record.curve("dpo", "format", response) for response in _SHOWN]
    return plots.accumulated(np.array([(v - v[0]).mean(1) for _, v in curves]), _SHOWN, curves[0][0])


def digits() -> Figure:
    images, labels = draw_digits(400)
    grid = class_influence(classifier(images, labels), images, labels)
    return plots.classes(grid, [str(i) for i in range(10)], "change of π(trained class), one step of 0.01")


def scatter() -> Figure:
    """One DPO step on the embedded small model, in fp64."""
    trio = load_trio()
    rows = preferences(trio.world, "format", 0)
    model = trio.base.double()
    pairs = as_pairs(trio.tokenizer, rows[:8]).with_reference(model)
    observed = probes(trio.world, rows, 8, "format", 0).encode(trio.tokenizer)
    return plots.scatter(verify(model, observed, pairs, DPO(), (1e-1, 1e-2, 1e-3)))


def _finish(figure: Figure, legend_of: list[Axes]) -> None:
    for axes in figure.axes:
        axes.grid(alpha=0.2)
    figure.legend(
        *legend_of[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )


@one_line()
def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--record", type=Path, default=Path("docs/data/dynamics"), help="folder with curves.parquet")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="gets dynamics-NAME.png")
    arguments = parser.parse_args()
    check_folder("--out", arguments.out)
    if not arguments.record.is_dir():
        raise ValueError(f"--record: no such folder: {arguments.record}")
    torch.set_num_threads(1)
    record = Record.read(arguments.record)
    drawn = {"sft": sft(record), "dpo": dpo(record), "upscaled": upscaled(record), "digits": digits()}
    drawn |= {"influence": influence(record), "scatter": scatter()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        save_figure(figure, arguments.out / f"dynamics-{name}.png", dpi=110)


if __name__ == "__main__":
    main()
