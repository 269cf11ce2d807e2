"""`eft serve`: a checkpoint behind a server with OpenAI's interface."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from eft_ext import _interrupt
from eft_ext._extras import MissingExtra, install, needs
from eft_ext._json import dumps
from eft_ext.cli import options as o

if TYPE_CHECKING:
    from eft_ext.hf.checkpoint.read import Checkpoint
    from eft_ext.serving.sizing import Sizing

NAME = "serve"
REST = {"allow_extra_args": True, "ignore_unknown_options": True}  # of the command: they are the server's


class Engine(str, Enum):
    """Programs that serve a checkpoint."""

    vllm = "vllm"
    transformers = "transformers"


_SERVERS = {Engine.vllm: "eft_ext.serving.vllm.server", Engine.transformers: "eft_ext.serving.transformers_server"}


def run(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id of a checkpoint of eft pack.")],
    engine: Annotated[
        Engine | None, typer.Option(help="The server that runs. Default: vllm where it is installed.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, branch or tag of a hub id.")] = None,
    speculate: Annotated[int, typer.Option(metavar="K", help="Tokens that tuned drafts in a step, with vllm.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would start, and with vllm what fits the GPUs' memory.")
    ] = False,
    gpus: Annotated[
        str | None, typer.Option(metavar="COUNTxKIND", help="For --dry-run: 8xH100, 2x48GiB. Default: those here.")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Serve a checkpoint over HTTP: /v1/chat/completions, /v1/completions, /health and more.

    vLLM serves many requests at once, each with its own parameters; transformers' server one after another. What else
    is given goes to that server: --host, --port, --dtype, ... The server's own help is `eft serve DIR -- --help`.

    Examples:

        eft pack -o trio

        eft serve trio --port 8080

        eft serve trio --speculate 3 -- --max-model-len 256 --shutdown-timeout 30

        eft serve trio --engine vllm --dry-run --gpus 8xH100
    """
    from eft_ext.hf.checkpoint.read import is_checkpoint, read

    if speculate < 0:
        raise ValueError(f"--speculate: expected a number of drafts from 0 up, got {speculate}")
    if not dry_run and (as_json or gpus is not None):
        raise ValueError(f"{'--json' if as_json else '--gpus'}: expected --dry-run beside it")
    options = {} if revision is None else {"revision": revision}
    if not is_checkpoint(checkpoint, options):
        raise ValueError(f"checkpoint: expected a folder or hub id of eft pack, got {checkpoint!r}")
    found = read(checkpoint, options)
    engine = engine or _installed(planned=dry_run)
    server = import_module(_SERVERS[engine])
    words = server.command(found, context.args, speculate)
    if dry_run:
        sizing = _sizing(found, context.args, gpus, speculate) if engine is Engine.vllm else None
        _show(words, sizing, as_json=as_json)
        return
    with needs(f"eft serve --engine {engine.value}", server.EXTRA):
        for package in server.PACKAGES:
            import_module(package)
    _interrupt.leave()
    server.run(words)


def _installed(*, planned: bool) -> Engine:
    """The first engine whose packages are here. Raises MissingExtra where there is none, unless it is only planned."""
    for engine, module in _SERVERS.items():
        if all(find_spec(package) for package in import_module(module).PACKAGES):
            return engine
    if planned:
        return Engine.vllm
    raise MissingExtra(f"eft serve needs an engine: {install('vllm')}, or for one request at a time {install('serve')}")


def _sizing(found: Checkpoint, flags: Sequence[str], gpus: str | None, speculate: int) -> Sizing:
    from eft_ext.serving.sizing import here, options_of, parse_gpus, size

    return size(found, here() if gpus is None else parse_gpus(gpus), speculate=speculate, **options_of(flags))


def _show(words: Sequence[str], sizing: Sizing | None, *, as_json: bool) -> None:
    """Prints the call that would start, and the sizing of vLLM."""
    from eft_ext.serving.sizing import lines

    if as_json:
        typer.echo(dumps({"command": words, "sizing": sizing and sizing.to_dict()}, indent=2))
        return
    typer.echo(shlex.join(words))
    if sizing is not None:
        typer.echo("\n" + "\n".join(lines(sizing)))
