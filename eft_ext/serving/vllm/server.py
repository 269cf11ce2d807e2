"""vLLM's OpenAI server over a checkpoint: what `eft serve` runs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from eft_ext.hf.checkpoint.read import Checkpoint, Place

EXTRA, PACKAGES = "vllm", ("vllm",)


def command(found: Checkpoint, flags: Sequence[str], speculate: int = 0) -> list[str]:
    """The call of `vllm` that serves a checkpoint.

    Args:
        flags: handed on as they are.
        speculate: tokens that the second model, tuned by name, drafts in a step.

    Raises:
        ValueError: a checkpoint without a second model that could draft, or speculation that is asked for twice.
    """
    words = ["vllm", "serve", found.source]
    if "revision" in found.options:
        words += ["--revision", found.options["revision"]]
    if speculate:
        if any(flag.replace("_", "-").startswith(("--speculative", "--spec-", "-sc")) for flag in flags):
            raise ValueError("--speculate: expected none beside vLLM's own options of speculation")
        words += ["--speculative-config", json.dumps(_drafts(found, speculate))]
    return [*words, *flags]


def _drafts(found: Checkpoint, count: int) -> dict[str, object]:
    """vLLM's configuration of speculation. vLLM loads the draft model apart, and wants it as a folder or a hub id."""
    if len(found.places) < 2:
        raise ValueError(
            f"--speculate: expected several models, of which the second drafts, got {next(iter(found.places))} alone"
        )
    # Drawn by its own probabilities, more drafts are accepted at a temperature than its likeliest tokens are.
    how = {"method": "draft_model", "num_speculative_tokens": count, "draft_sample_method": "probabilistic"}
    return {**how, **_draft_model(list(found.places.values())[1])}


def _draft_model(place: Place) -> dict[str, str]:
    """A place as vLLM names a draft model. It takes whole repositories only, so a part of one is downloaded."""
    revision = {"revision": place.options["revision"]} if "revision" in place.options else {}
    if (subfolder := place.options.get("subfolder")) is None:
        return {"model": place.source, **revision}
    from huggingface_hub import snapshot_download

    return {
        "model": os.path.join(snapshot_download(place.source, allow_patterns=f"{subfolder}/*", **revision), subfolder)
    }


def run(words: Sequence[str]) -> None:
    """Runs what `command` made, in this process, until the server is stopped; signals are vLLM's.

    Called inside Python, since the command `vllm` is missing or broken where the distribution has another name, as that
    of a CPU has.

    Raises:
        ValueError: an option that vLLM does not know or take.
        RuntimeError: a checkpoint or an option that several models as one do not take.
    """
    from eft_ext.serving.vllm import names, server_gone

    class Parser(names.FlexibleArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ValueError(f"vllm: {message}")

    os.environ[server_gone.SERVER] = str(os.getpid())
    names.cli_env_setup()
    serve = names.ServeSubcommand()
    parser = Parser(prog=words[0])
    serve.subparser_init(parser.add_subparsers(dest="subparser"))
    args = parser.parse_args(list(words[1:]))
    names.configure_logging_from_args(args)
    try:
        serve.validate(args)
    except Exception as error:  # of several classes, without a common one
        raise ValueError(f"vllm: {error}") from error
    try:
        serve.cmd(args)
    except ValueError as error:
        if (details := getattr(error, "errors", None)) is None:
            raise
        raise ValueError("; ".join(map(_said, details()))) from error


def _said(detail: dict[str, Any]) -> str:
    """One complaint of pydantic, without the values of everything beside."""
    where = "".join(f"{name}: " for name in detail["loc"])
    return f"vllm: {where}{detail['msg'].removeprefix('Value error, ')}"
