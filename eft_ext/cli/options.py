"""Options that several commands share: which models, how to sample."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from eft_ext.hf import EmulatedModel

_MODELS, _SAMPLING = "Models", "Sampling"


class Template(str, Enum):
    """Which models read a prompt through the chat template, the others reading plain text."""

    all = "all"
    tuned = "tuned"
    none = "none"


Large = Annotated[
    str | None,
    typer.Option(
        help="Large pre-trained model: hub id or folder. Default: the embedded trio.", rich_help_panel=_MODELS
    ),
]
Tuned = Annotated[
    str | None, typer.Option(help="Small fine-tuned model, or an adapter of base.", rich_help_panel=_MODELS)
]
Base = Annotated[
    str | None, typer.Option(help="Small pre-trained model; may be left out under an adapter.", rich_help_panel=_MODELS)
]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16. Default: as stored.", rich_help_panel=_MODELS)
]
DeviceMap = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda:0, ... as in transformers.", rich_help_panel=_MODELS)
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with a model.", rich_help_panel=_MODELS)
]
ChatTemplate = Annotated[
    Template | None,
    typer.Option(
        help="Who reads the prompt through the chat template. Default: all models if there is one, else none.",
        rich_help_panel=_MODELS,
    ),
]
Beta = Annotated[
    float | None, typer.Option(help="z = large + beta (tuned - base). Default: 1.", rich_help_panel=_SAMPLING)
]
Scale = Annotated[
    float | None, typer.Option(help="Instead of beta: z = tuned + scale (large - base).", rich_help_panel=_SAMPLING)
]
ConservativeTopP = Annotated[
    float | None,
    typer.Option(help="Up-scale only inside this nucleus of the tuned model.", rich_help_panel=_SAMPLING),
]
MaxNewTokens = Annotated[int, typer.Option(help="Tokens of an answer at most.", rich_help_panel=_SAMPLING)]
Temperature = Annotated[
    float | None,
    typer.Option(help="0 is greedy. Default: 1 if top-p, top-k or min-p is given, else 0.", rich_help_panel=_SAMPLING),
]
TopP = Annotated[float | None, typer.Option(help="From 0 to 1.", rich_help_panel=_SAMPLING)]
TopK = Annotated[int | None, typer.Option(help="0 is off. Default: off.", rich_help_panel=_SAMPLING)]
MinP = Annotated[float | None, typer.Option(help="From 0 to 1.", rich_help_panel=_SAMPLING)]
Speculate = Annotated[
    str | None,
    typer.Option(
        help="Tokens that the small model drafts for the others to verify, or auto. The answers' distribution stays.",
        rich_help_panel=_SAMPLING,
    ),
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.", rich_help_panel=_SAMPLING)]


def sampling(
    *,
    max_new_tokens: int,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    min_p: float | None,
    seed: int | None,
) -> dict[str, Any]:
    """Keyword arguments for `EmulatedModel.generate`. Raises ValueError for a value out of range."""
    for name, value, low, high in (
        ("--max-new-tokens", max_new_tokens, 1, None),
        ("--temperature", temperature, 0, None),
        ("--top-p", top_p, 0, 1),
        ("--top-k", top_k, 0, None),
        ("--min-p", min_p, 0, 1),
    ):
        if value is not None and not (value >= low and (high is None or value <= high)):
            wanted = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ValueError(f"{name}: expected a number {wanted}, got {value}")
    filters = {"top_p": top_p, "top_k": top_k, "min_p": min_p}
    given = {name: value for name, value in filters.items() if value is not None}
    if temperature is None:
        temperature = 1.0 if given else 0.0
    if temperature == 0:
        return {"max_new_tokens": max_new_tokens, "do_sample": False}
    warm = {"do_sample": True, "temperature": temperature, "top_k": 0, "seed": seed}
    return {"max_new_tokens": max_new_tokens, **warm, **given}


def speculation(given: str | None) -> dict[str, Any]:
    """`--speculate` as keyword arguments for `EmulatedModel.generate`. Raises ValueError for a value out of range."""
    from eft_ext.hf.speculation import MOST

    if given is None:
        return {}
    if given != "auto" and not (given.isascii() and given.isdecimal() and int(given) <= MOST):
        raise ValueError(f"--speculate: expected auto or a number from 0 to {MOST}, got {given}")
    return {"speculate": given if given == "auto" else int(given)}


def load(
    large: str | None, tuned: str | None, base: str | None, weights: Mapping[str, Any], **options: Any
) -> tuple[EmulatedModel, bool]:
    """The models asked for, or the embedded trio if none are named.

    Returns:
        The model, and whether it is the embedded trio.

    Raises:
        ValueError: some models are named and others are missing, or one cannot be loaded.
    """
    import torch
    from transformers.utils import logging

    from eft_ext.demo import model_path
    from eft_ext.hf import EmulatedModel

    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    embedded = large is tuned is base is None
    if embedded:
        torch.set_num_threads(1)  # layers this small take longer to share than to compute
        logging.disable_progress_bar()
        trio = {"large": "large-base", "tuned": "small-tuned", "base": "small-base"}
        folders = {name: model_path(folder) for name, folder in trio.items()}
        if not all(folder.is_dir() for folder in folders.values()):
            raise ValueError("--large, --tuned, --base: expected models, since this copy has no embedded ones")
        large, tuned, base = (str(folder) for folder in folders.values())
    if large is None or tuned is None:
        raise ValueError(f"--{'large' if large is None else 'tuned'}: expected a model beside the others, got none")
    given = {name: value for name, value in options.items() if value not in (None, False)}
    return EmulatedModel.from_pretrained(large, tuned, base, quiet=embedded, **given, **weights), embedded


def prompts(model: EmulatedModel, turns: list[dict[str, str]], plain: str, template: Template | None) -> dict[str, Any]:
    """What each model reads of a conversation, as `generate(prompts=)` takes it.

    Args:
        turns: {"role", "content"}, the last one the user's.
        plain: the same as text to be continued, for the models that do not read the chat template.

    Raises:
        ValueError: a chat template is asked for and the tokenizer has none.
    """
    has = getattr(model.tokenizer, "chat_template", None) is not None
    if template is None:
        template = Template.all if has else Template.none
    if template is not Template.none and not has:
        raise ValueError(f"--chat-template {template.value}: the tokenizer has none; use --chat-template none")
    if template is Template.all:
        return {"large": turns}
    return {"large": plain, "tuned": turns} if template is Template.tuned else {"large": plain}
