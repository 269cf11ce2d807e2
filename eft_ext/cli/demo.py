"""`eft demo`: the embedded models show what emulated fine-tuning does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eft_ext import _seed
from eft_ext._extras import needs
from eft_ext.cli import options as o
from eft_ext.cli.outputs import PICTURES, models_read, writable
from eft_ext.demo import MODELS, TRIO, model_paths
from eft_ext.demo.notes import NAME as NOTES
from eft_ext.demo.notes import read_world
from eft_ext.methods import UpScale

NAME = "demo"


def run(
    questions: Annotated[int, typer.Option(help="Held-out questions that the table is over.")] = 500,
    shown: Annotated[int | None, typer.Option(help="Questions answered side by side first. Default: 4.")] = None,
    sampled: Annotated[bool, typer.Option(help="Also sample, at temperature 0.7 and top-p 0.9.")] = True,
    unfiltered: Annotated[
        bool, typer.Option("--unfiltered", help="Also sample at temperature 1 without filters.")
    ] = False,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Show the trade-off between two behaviours over their shares instead.")
    ] = False,
    beta: Annotated[float, typer.Option(help="Weight of what the small pair learnt.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the questions and of sampling.", callback=_seed.checked)] = 0,
    models: Annotated[
        Path | None, typer.Option(help="Folder made by python -m eft_ext.demo.train. Default: the embedded models.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option(help="Write the figures there as JSON.")] = None,
    plot_path: Annotated[Path | None, typer.Option(help="Draw the figures there, as .png, .svg or .pdf.")] = None,
    as_json: o.Json = False,
) -> int:
    """Show large, small tuned, EFT and oracle answering the same held-out questions, then count.

    With --interpolate: two behaviours of the small models, polite and talkative, in all proportions on the large one,
    sampled at temperature 1.

    Exit code 1 if the figures refute what they should show; with few questions that stays open.

    Examples:

        eft demo

        eft demo --questions 100 --no-sampled --json

        eft demo --interpolate --plot-path interpolation.png
    """
    training = None if models is None else models / NOTES
    read = {"the models' training.json": training, **models_read({"--models": models})}
    writable("--json-path", json_path, others=read)
    writable("--plot-path", plot_path, PICTURES, {"--json-path": json_path, **read})
    if plot_path is not None:  # before anything is asked
        with needs("--plot-path", "plots"):
            import matplotlib  # noqa: F401
    if models is not None:
        read_world("--models", models)
    model_paths(models, MODELS if interpolate else TRIO)
    if interpolate:
        if beta != 1.0:
            raise ValueError(f"--beta: expected nothing beside --interpolate, got {beta}")
        from eft_ext.demo.curve import run_interpolation

        holds = run_interpolation(
            questions=questions,
            shown=shown,
            seed=seed,
            models=models,
            as_json=as_json,
            json_path=json_path,
            plot_path=plot_path,
        )
        return 0 if holds else 1
    UpScale(beta)  # raises for a beta that is none, before anything is loaded
    from eft_ext.demo.run import run_demo

    holds = run_demo(
        questions=questions,
        shown=shown,
        sampled=sampled,
        unfiltered=unfiltered,
        seed=seed,
        beta=beta,
        models=models,
        as_json=as_json,
        json_path=json_path,
        plot_path=plot_path,
    )
    return 0 if holds else 1
