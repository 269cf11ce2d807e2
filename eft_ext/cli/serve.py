"""`eft serve`: a checkpoint behind a server with OpenAI's interface."""

from __future__ import annotations

from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from eft_ext._extras import needs

NAME = "serve"
REST = {"allow_extra_args": True, "ignore_unknown_options": True}  # of the command: they are the server's
_PACKAGES = ("accelerate", "fastapi", "openai", "uvicorn")  # without which transformers serves nothing
_PAGED = "--continuous-batching"


class Engine(str, Enum):
    """Programs that serve a checkpoint."""

    transformers = "transformers"


def run(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id of a checkpoint of eft pack.")],
    engine: Annotated[Engine, typer.Option(help="The server that runs.")] = Engine.transformers,
) -> None:
    """Serve a checkpoint over HTTP: /v1/chat/completions, /v1/completions, /v1/responses.

    What else is given goes to `transformers serve`, whose help names it: --host, --port, --device, --dtype, ...
    Requests run one after another. Their "model" is the checkpoint as it is named here, or is left out.

    Examples:

        eft pack -o trio

        eft serve trio --port 8080
    """
    with needs(f"eft serve --engine {engine.value}", "serve"):
        for package in _PACKAGES:
            import_module(package)
    if _PAGED in context.args:
        raise ValueError(f"{_PAGED}: expected none, since its pages hold the cache of one model")

    from eft_ext.hf.checkpoint.read import is_checkpoint, read

    if not is_checkpoint(checkpoint, {}):
        raise ValueError(f"checkpoint: expected a folder or hub id of eft pack, got {checkpoint!r}")
    read(checkpoint, {})
    from huggingface_hub import constants
    from transformers.cli.transformers import app

    Path(constants.HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)  # which its /v1/models lists

    # Not its `main`, which first asks a package registry for news.
    app(["serve", checkpoint, *context.args], prog_name="transformers", standalone_mode=False)
