"""`eft pack`: several models and how they are mixed, as one checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from eft_ext.cli import info, loading
from eft_ext.cli import methods as m
from eft_ext.cli import options as o

NAME = "pack"
_PANEL = "Checkpoint"


def run(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.", rich_help_panel=_PANEL)],
    large: o.Large = None,
    tuned: o.Tuned = None,
    base: o.Base = None,
    model: m.Models = None,
    revision: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=REVISION", help="Commit of a hub id, by model.", rich_help_panel="Models"),
    ] = None,
    trust_remote_code: o.TrustRemoteCode = False,
    any_tokenizers: o.AnyTokenizers = False,
    special_token: o.SpecialToken = None,
    method: m.Method = None,
    weight: m.Weight = None,
    beta: m.Beta = None,
    scale: m.Scale = None,
    share: m.Share = None,
    plausibility: m.Plausibility = None,
    conservative_top_p: m.ConservativeTopP = None,
    conservative_set: m.ConservativeSet = None,
    conservative_outside: m.ConservativeOutside = None,
    weights: Annotated[
        str,
        typer.Option(
            help="copy the models into the folder, link it to local ones, or reference hub ids at their revision.",
            rich_help_panel=_PANEL,
        ),
    ] = "copy",
    settings_from: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The model whose generation settings are taken. Default: the method's first.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a checkpoint that is there.", rich_help_panel=_PANEL)
    ] = False,
    as_json: o.Json = False,
) -> None:
    """Make one checkpoint of several models, which tools of transformers take for one.

    The folder has a configuration, the tokenizer with the tuned model's chat template, generation settings that end
    where any of the models does, and the models in folders of their own. They are checked as loading checks them;
    weights are not loaded. `AutoModelForCausalLM.from_pretrained` reads it where eft_ext is imported, or with
    `trust_remote_code=True`; so do generate, chat, score and report, as `--large`.

    Examples:

        eft pack -o trio

        L=Qwen/Qwen2.5-7B T=Qwen/Qwen2.5-0.5B-Instruct B=Qwen/Qwen2.5-0.5B

        eft pack --large $L --tuned $T --base $B --weights reference -o emulated

        eft pack --method contrast --model expert=$L --model amateur=$B -o pair

        eft generate --large trio --prompt "Where was Fikim Thetrond born?"
    """
    from eft_ext.hf.checkpoint.pack import pack

    nucleus = (conservative_top_p, conservative_set, conservative_outside)
    parameters = m.parameters(weight, beta, scale, share, plausibility, *nucleus)
    how, named, _ = loading.asked(large, tuned, base, parameters, method=method, models=model)
    loading.hush(bars=False)
    pack(
        out,
        named,
        how,
        weights=weights,
        check_tokenizers=not any_tokenizers,
        special_tokens=o.special_tokens(special_token),
        settings_from=settings_from,
        overwrite=overwrite,
        progress=sys.stderr.isatty() and not as_json,
        trust_remote_code=trust_remote_code,
        **_revisions(revision),
    )
    info.show(out, as_json=as_json)


def _revisions(given: list[str] | None) -> dict[str, Any]:
    """`--revision` by name. Raises ValueError for one without a name, or named twice."""
    found: dict[str, str] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not (name and equals and value) or name in found:
            raise ValueError(f"--revision: expected NAME=REVISION, each name once, got {each!r}")
        found[name] = value
    return {"revision": found} if found else {}
