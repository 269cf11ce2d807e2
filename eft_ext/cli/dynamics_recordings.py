"""Commands of `eft dynamics` that read a recording: plot, diagnose, tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from eft_ext._files import write_text
from eft_ext._json import dumps
from eft_ext.cli import dynamics_outputs as told
from eft_ext.cli.options import Json, TrustRemoteCode
from eft_ext.cli.outputs import PICTURES, models_read, writable

_KINDS = (
    "curves: a statistic of each type of response over training; confidence: curves of log p_max per token; "
    "influence: change of log π since the first record, as colours."
)
_STATISTICS = (
    "Of curves: log_prob, log_prob_mean, argmax_log_prob, argmax_log_prob_mean, log_rest_mean, entropy_mean, "
    "pi_squared_mean, a_norm, g_norm or tokens. Default: log_prob_mean."
)


class Kind(str, Enum):
    """Pictures of a recording."""

    curves = "curves"
    confidence = "confidence"
    influence = "influence"


def plot_run(
    recording: Annotated[list[Path], typer.Argument(help="Folder of a recording; several are compared.")],
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")],
    kind: Annotated[Kind, typer.Option(help=_KINDS)] = Kind.curves,
    statistic: Annotated[str | None, typer.Option(help=_STATISTICS)] = None,
    only: Annotated[list[str] | None, typer.Option(help="A type of response; may be given several times.")] = None,
    change: Annotated[
        bool, typer.Option("--change", help="Curves and confidence as differences from the first record.")
    ] = False,
) -> None:
    """Draw a recording: curves per type of response, the argmax's confidence, or the accumulated influence.

    Examples:

        eft dynamics plot run --out curves.png

        eft dynamics plot run --change --only chosen --only rejected --out run.svg

        eft dynamics plot run-a run-b --out both.png
    """
    if statistic is not None and kind is not Kind.curves:
        raise ValueError(f"--statistic: expected --kind curves, got {kind.value}")
    if change and kind is Kind.influence:
        raise ValueError(f"--change: expected --kind curves or confidence, got {kind.value}")
    writable("--out", out, PICTURES)
    from eft_ext.dynamics import plots
    from eft_ext.dynamics.store import check_no_part

    for folder in recording:
        check_no_part("--out", out, folder)
    runs = [told.read(folder) for folder in recording]
    if kind is Kind.curves:
        figure = plots.curves(runs, "log_prob_mean" if statistic is None else statistic, only, change)
    elif kind is Kind.confidence:
        figure = plots.confidence(runs, only, change)
    else:
        figure = plots.influence(runs, only)
    plots.save(figure, out)


def diagnose_run(
    recording: Annotated[Path, typer.Argument(help="Folder of a recording.")],
    chosen: Annotated[str, typer.Option(help="Type of the preferred responses.")] = "chosen",
    rejected: Annotated[str, typer.Option(help="Type of the others.")] = "rejected",
    as_json: Json = False,
) -> None:
    """Say whether a run squeezes: do chosen and rejected both fall while the argmax rises?

    Examples:

        eft dynamics diagnose run
    """
    from eft_ext.dynamics import diagnose

    found = diagnose(told.read(recording), chosen, rejected)
    typer.echo(dumps({"squeezed": found.squeezed, **asdict(found)}, indent=2) if as_json else str(found))


def tokens_of_run(
    recording: Annotated[Path, typer.Argument(help="Folder of a recording.")],
    out: Annotated[Path, typer.Option(help="JSON lines for eft report --records.")],
    model: Annotated[str | None, typer.Option(help="The model whose tokenizer the run had. Default: embedded.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    only: Annotated[str, typer.Option(help="Type of response.")] = "chosen",
) -> None:
    """Write, token by token, what each stretch of training added to log π: δ = log π_tuned − log π_base in parts.

    Examples:

        eft dynamics tokens run --out tokens.jsonl

        eft report --records tokens.jsonl --out tokens.html
    """
    writable("--out", out, others=models_read({"--model": model}))
    from eft_ext.cli.dynamics_inputs import tokenizer_of
    from eft_ext.demo import model_path
    from eft_ext.dynamics import delta_records
    from eft_ext.dynamics.store import check_no_part
    from eft_ext.hf.loading.hub import source_of

    check_no_part("--out", out, recording)
    folder = source_of("--model", model) if model is not None else str(model_path("small-base"))
    tokenizer = tokenizer_of(folder, {"trust_remote_code": trust_remote_code})
    lines = [dumps(record) for record in delta_records(told.read(recording), only, tokenizer)]
    write_text(out, "\n".join(lines) + "\n")


COMMANDS: dict[str, Callable[..., None]] = {"plot": plot_run, "diagnose": diagnose_run, "tokens": tokens_of_run}
