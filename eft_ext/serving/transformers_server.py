"""transformers' own OpenAI server over a checkpoint, for one request at a time: what `eft serve` runs without vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eft_ext.hf.checkpoint.read import Checkpoint

EXTRA, PACKAGES = "serve", ("accelerate", "fastapi", "openai", "uvicorn")  # without which it serves nothing
_PAGED = "--continuous-batching"


def command(found: Checkpoint, flags: Sequence[str], speculate: int = 0) -> list[str]:
    """The call of `transformers` that serves a checkpoint; arguments as for vLLM's.

    Raises:
        ValueError: what that server cannot do with several models.
    """
    if speculate:
        raise ValueError("--speculate: expected none with --engine transformers, whose server has no drafts; vllm has")
    if _PAGED in flags:
        raise ValueError(f"{_PAGED}: expected none, since its pages hold the cache of one model")
    if "@" in found.source:  # it cuts there, and loads another folder
        raise ValueError(f"checkpoint: expected a path without @, which begins a revision, got {found.source!r}")
    at = f"@{found.options['revision']}" if "revision" in found.options else ""
    return ["transformers", "serve", found.source + at, *flags]


def run(words: Sequence[str]) -> None:
    """Runs what `command` made, in this process, until the server is stopped. Raises ValueError for a wrong option."""
    from huggingface_hub import constants
    from transformers.cli.transformers import app

    Path(constants.HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)  # which its /v1/models lists

    # Not its `main`, which first asks a package registry for news.
    app(list(words[1:]), prog_name=words[0], standalone_mode=False)
