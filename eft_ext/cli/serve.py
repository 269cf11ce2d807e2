"""`eft serve`: a checkpoint behind a server with OpenAI's interface."""

from __future__ import annotations

import shlex
from enum import Enum
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import typer

from eft_ext import _interrupt
from eft_ext._extras import MissingExtra, install, needs

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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would start, and what fits.")] = False,
) -> None:
    """Serve a checkpoint over HTTP: /v1/chat/completions, /v1/completions, /health and more.

    vLLM serves many requests at once, each with its own parameters; transformers' server one after another. What else
    is given goes to that server: --host, --port, --dtype, ... The server's own help is `eft serve DIR -- --help`.

    Examples:

        eft pack -o trio

        eft serve trio --port 8080

        eft serve trio --speculate 3 -- --max-model-len 4096 --api-key secret
    """
    from eft_ext.hf.checkpoint.read import is_checkpoint, read

    if speculate < 0:
        raise ValueError(f"--speculate: expected a number of drafts from 0 up, got {speculate}")
    options = {} if revision is None else {"revision": revision}
    if not is_checkpoint(checkpoint, options):
        raise ValueError(f"checkpoint: expected a folder or hub id of eft pack, got {checkpoint!r}")
    found = read(checkpoint, options)
    engine = engine or _installed()
    server = import_module(_SERVERS[engine])
    words = server.command(found, context.args, speculate)
    if dry_run:
        typer.echo(shlex.join(words))
        return
    with needs(f"eft serve --engine {engine.value}", server.EXTRA):
        for package in server.PACKAGES:
            import_module(package)
    _interrupt.leave()
    server.run(words)


def _installed() -> Engine:
    """The first engine whose packages are here. Raises MissingExtra where there is none."""
    for engine, module in _SERVERS.items():
        if all(find_spec(package) for package in import_module(module).PACKAGES):
            return engine
    raise MissingExtra(f"eft serve needs an engine: {install('vllm')}, or for one request at a time {install('serve')}")
