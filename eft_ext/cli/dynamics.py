"""`eft dynamics`: record a training run, take one step apart. What reads a recording is in `dynamics_recordings`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from eft_ext import _seed
from eft_ext._json import dumps
from eft_ext.cli import dynamics_outputs as told
from eft_ext.cli import dynamics_recordings, long_texts
from eft_ext.cli.command import Command
from eft_ext.cli.options import Json, TrustRemoteCode
from eft_ext.cli.outputs import PICTURES, fillable, models_read, writable

app = typer.Typer(
    name="dynamics",
    help="Learning dynamics: what fine-tuning on one response does to all the others.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
for _name, _run in dynamics_recordings.COMMANDS.items():
    app.command(_name, cls=Command)(_run)


class LossName(str, Enum):
    """Losses of `eft_ext.dynamics`."""

    sft = "sft"
    dpo = "dpo"
    ipo = "ipo"
    slic = "slic"
    sppo = "sppo"


Model = Annotated[str | None, typer.Option(help="Hub id or folder. Default: the embedded small pre-trained model.")]
Probes = Annotated[
    Path | None, typer.Option(help="JSONL: prompt or messages, a text for each type. Default: embedded.")
]
Sample = Annotated[int | None, typer.Option(help="Watch only so many of the probes, drawn by --seed. Default: all.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help="JSONL: prompt, completion; or prompt, chosen, rejected; texts or chat messages. Default: the embedded "
        "preferences."
    ),
]
LossOption = Annotated[
    LossName,
    typer.Option(
        help="sft reads completions, or chosen responses; the others pairs. ipo, slic and sppo are as in their papers: "
        "see docs/guides/dynamics.md for TRL's."
    ),
]


@app.command("track", cls=Command)
def track_run(
    out: Annotated[Path, typer.Option(help="Folder for the recording.")],
    model: Model = None,
    trust_remote_code: TrustRemoteCode = False,
    probes: Probes = None,
    sample: Sample = None,
    data: Data = None,
    method: LossOption = LossName.sft,
    extend: Annotated[bool, typer.Option("--extend", help="SFT on chosen and rejected: against squeezing.")] = False,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Rows, or pairs, in one step.")] = 16,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW, constant.")] = 1e-4,
    every: Annotated[int, typer.Option(help="Record after each so many steps.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the data's order and of --sample.", callback=_seed.checked)] = 0,
    context: long_texts.Context = long_texts.Beyond.warn,
    save: Annotated[Path | None, typer.Option(help="Save the tuned model there.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a recording and a saved model.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model and record what happens to the probes.

    Examples:

        eft dynamics track --out run --method dpo --steps 100

        eft dynamics track --out run --probes probes.jsonl --data pairs.jsonl

        eft dynamics track --out run --probes probes.jsonl --sample 50
    """
    if extend and method is not LossName.sft:
        raise ValueError(f"--extend: expected --method sft, got {method.value}")
    from eft_ext.dynamics import diagnose
    from eft_ext.dynamics.store import check_free, check_no_part

    read = {"--probes": probes, "--data": data, **models_read({"--model": model})}
    fillable("--save", save, overwrite, {**read, "--out": out})
    check_no_part("--data", data, out)
    check_free(out, overwrite, "--out", "give --overwrite or another folder")
    from eft_ext.cli.dynamics_inputs import Tuning, check_numbers  # seconds

    check_numbers({"--steps": steps, "--batch-size": batch_size, "--every": every}, [lr])
    tuning = Tuning.load(model, probes, data, method.value, extend, batch_size, seed, trust_remote_code, sample)
    long_texts.heed(context)
    tuning.check_texts(steps)
    told.watched(tuning.probes, as_json)
    spent = tuning.train(steps, lr, out, every, overwrite, quiet=as_json)
    if save:
        tuning.save(save)
    recording = told.read(out, "; try a smaller --lr")
    found = {
        "recording": str(out),
        "steps": recording.steps.tolist(),
        "seconds": spent,
        "change": {name: float((c := recording.curve(name))[-1].mean() - c[0].mean()) for name in recording.types},
    }
    if {"chosen", "rejected"} <= set(recording.types):
        verdict = diagnose(recording)
        found |= {"squeezed": verdict.squeezed, "verdict": str(verdict)}
    told.show_change(found, as_json, "Δ log π per response, nats", found["change"])


@app.command("decompose", cls=Command)
def decompose_step(
    model: Model = None,
    trust_remote_code: TrustRemoteCode = False,
    probes: Probes = None,
    sample: Sample = None,
    data: Data = None,
    method: LossOption = LossName.sft,
    batch_size: Annotated[int, typer.Option(help="Rows, or pairs, in the step.")] = 16,
    lr: Annotated[list[float] | None, typer.Option(help="Learning rate; may be given several times.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the batch and of --sample.", callback=_seed.checked)] = 0,
    context: long_texts.Context = long_texts.Beyond.warn,
    double: Annotated[bool, typer.Option(help="Compute in fp64, so that the error is not rounding.")] = True,
    plot: Annotated[Path | None, typer.Option(help="Draw there, as .png, .svg or .pdf.")] = None,
    as_json: Json = False,
) -> None:
    """Predict what one SGD step does to each probe, then take the step and compare.

    Examples:

        eft dynamics decompose --method dpo

        eft dynamics decompose --lr 1e-3 --lr 1e-4 --plot error.png

        eft dynamics decompose --model gpt2 --probes probes.jsonl --data sft.jsonl
    """
    writable("--plot", plot, PICTURES, {"--probes": probes, "--data": data, **models_read({"--model": model})})
    from eft_ext.cli.dynamics_inputs import Tuning, check_numbers
    from eft_ext.dynamics import verify

    check_numbers({"--batch-size": batch_size}, lr or [])
    if plot:
        from eft_ext.dynamics import plots
    tuning = Tuning.load(model, probes, data, method.value, False, batch_size, seed, trust_remote_code, sample)
    long_texts.heed(context)
    tuning.check_texts(1)
    told.watched(tuning.probes, as_json)
    read = tuning.model.double() if double else tuning.model  # itself, in place
    observed = tuning.probes.encode(tuning.tokenizer)
    result = verify(read, observed, next(tuning.updates()), tuning.loss, lr or [1e-2, 1e-3, 1e-4])
    if plot:
        plots.save(plots.scatter(result), plot)
    rows = list(told.by_type(tuning.probes, result))
    found = {"method": method.value, "steps": rows, "order": result.order if len(result.lrs) > 1 else None}
    if as_json:
        typer.echo(dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("lr", "type", "predicted Δ log π", "actual", "largest error of a token", box=None, pad_edge=False)
    for row in rows:
        figures = (f"{row[name]:+.4e}" for name in ("predicted", "actual"))
        table.add_row(f"{row['lr']:g}", row["type"], *figures, f"{row['error']:.1e}")
    Console().print(table)
    if found["order"] is not None:
        typer.echo(f"\nThe error falls with lr to the power {found['order']:.2f} (2 is exact first order).")
