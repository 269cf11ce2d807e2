"""The pictures of docs/guides/dynamics.md: `python -m eft_ext.demo.dynamics.figures --record DIR --out DIR`.

That of one step is drawn by `eft dynamics decompose --method dpo --plot docs/images/dynamics-scatter.png`.
"""

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

    from eft_ext.demo.dynamics.data import KINDS
    from eft_ext.demo.dynamics.digits import class_influence, classifier, draw_digits
    from eft_ext.demo.dynamics.findings import FLUENT
    from eft_ext.demo.dynamics.record import StudyRecord
    from eft_ext.demo.trio import EFT, TUNED
    from eft_ext.dynamics import bootstrap, drawing

_SHOWN = ("chosen", "chosen_paraphrase", "chosen_plain", "rejected", "irr_train", "irr_test", "cross_prompt")
_RUNS = {"sft": "SFT", "dpo": "SFT, DPO", "dpo-extended": "extended SFT, DPO"}
_BEGINNING = 30  # steps of SFT in which a bell rises and falls


def sft(record: StudyRecord) -> Figure:
    """Change of log π by type of response during SFT; the first seed's probes."""
    figure = Figure(figsize=(7.6, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    _changes(axes[0], record, "sft", "")
    _changes(axes[1], record, "sft", "", _BEGINNING)
    axes[0].set(xlabel="training step", ylabel="change of log π(response), nats", title="SFT on chosen")
    axes[1].set(xlabel="training step", title=f"its first {_BEGINNING} steps (own scale)")
    drawing.legend(figure, axes[0], loc="outside lower center", ncols=4)
    return figure


def dpo(record: StudyRecord) -> Figure:
    """Change of log π, and the argmax along rejected, for each kind of rejected, with and without the mitigation."""
    figure = Figure(figsize=(8.4, 7), layout="constrained")
    grid = figure.subplots(3, 3, sharex=True, sharey="row")
    for column, kind in enumerate(KINDS):
        for row, run in enumerate(("dpo", "dpo-extended")):
            axes = grid[row, column]
            _changes(axes, record, run, kind)
            axes.set_yscale("symlog", linthresh=2)
            axes.set_yticks([-100, -10, -2, 0, 2, 10], ["−100", "−10", "−2", "0", "2", "10"])
            axes.set_title(f"{_RUNS[run]}; rejected: {kind}", fontsize=9)
            steps, top = record.curve(run, kind, "rejected", "argmax_log_prob_mean")
            drawing.lines(grid[2, column], steps, top - top[0], _RUNS[run], **drawing.style(row))
        grid[2, column].set(xlabel="DPO step")
        grid[2, column].set_title(f"argmax along rejected: {kind}", fontsize=9)
    for row in (0, 1):
        grid[row, 0].set_ylabel("change of log π(response),\nnats, logarithmic beyond ±2", fontsize=9)
    grid[2, 0].set_ylabel("change of log p_max\nper token, nats", fontsize=9)
    grid[2, 2].legend(fontsize=8, frameon=False, loc="best")
    drawing.legend(figure, grid[0, 0], loc="outside lower center", ncols=4)
    return figure


def _changes(axes: Axes, record: StudyRecord, run: str, kind: str, last: int | None = None) -> None:
    """Lines of all types, dashed where the response is another prompt's."""
    for i, response in enumerate(_SHOWN):
        steps, values = record.curve(run, kind, response)
        shown = slice(None) if last is None else steps <= last
        dashes = "--" if response in FLUENT["responses to other prompts"] else "-"
        look = drawing.style(i) | {"linestyle": dashes}
        drawing.lines(axes, steps[shown], (values - values[0])[shown], response, **look)


def upscaled(record: StudyRecord) -> Figure:
    """Facts and format of the small tuned models alone and carried over by EFT."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("fact", "format"), strict=True):
        models = [("sft", ""), *((run, kind) for kind in KINDS for run in ("dpo", "dpo-extended"))]
        for offset, who in ((-0.12, TUNED), (0.12, EFT)):
            for x, (run, kind) in enumerate(models):
                mean, low, high = (100 * v for v in bootstrap(record.grade(run, kind, who, name), draws=500))
                color = drawing.COLOURS[who == TUNED]
                label = who if x == 0 else None
                bar = [[mean - low], [high - mean]]
                axes.errorbar([x + offset], [mean], bar, fmt="o", color=color, capsize=2, label=label, markersize=4)
        labels = [f"{_RUNS[run]}\n{kind}" for run, kind in models]
        axes.set_xticks(range(len(models)), labels, rotation=60, ha="right", fontsize=7)
        axes.set(title={"fact": "facts right, %", "format": "format kept, %"}[name], ylim=(-3, 103))
        axes.grid(alpha=0.2)
    drawing.legend(figure, axes, loc="outside right upper")
    return figure


def influence(record: StudyRecord) -> Figure:
    """Accumulated Δ log π during DPO on fluent rejected responses; the first seed's mean over probes."""
    curves = [record.curve("dpo", "format", response) for response in _SHOWN]
    changes = np.array([(v - v[0]).mean(1) for _, v in curves])
    return drawing.accumulated({"": (curves[0][0], changes)}, _SHOWN)


def digits() -> Figure:
    """Influence of each class of drawn digits on each."""
    images, labels = draw_digits(400)
    grid = class_influence(classifier(images, labels), images, labels)
    title = "one step, lr 0.01, on the trained class"
    return drawing.classes(grid, [str(i) for i in range(10)], title, "change of π(trained class)")


@one_line()
def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("--record", type=Path, default=Path("docs/data/dynamics"), help="folder with curves.parquet")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="gets dynamics-NAME.png")
    arguments = parser.parse_args()
    check_folder("--out", arguments.out)
    if not arguments.record.is_dir():
        raise ValueError(f"--record: no such folder: {arguments.record}")
    torch.set_num_threads(1)
    record = StudyRecord.read(arguments.record)
    drawn = {"sft": sft(record), "dpo": dpo(record), "upscaled": upscaled(record), "digits": digits()}
    drawn["influence"] = influence(record)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        save_figure(figure, arguments.out / f"dynamics-{name}.png", dpi=90 if name == "dpo" else 110)


if __name__ == "__main__":
    main()
