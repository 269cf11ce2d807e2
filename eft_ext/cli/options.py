"""Options that several commands share: which models, how to sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eft_ext import _seed
from eft_ext.cli.methods import Beta as Beta
from eft_ext.cli.methods import ConservativeTopP as ConservativeTopP
from eft_ext.cli.methods import Scale as Scale
from eft_ext.ops.inputs import BEYOND_FLOAT32, finite

if TYPE_CHECKING:
    from eft_ext.hf import EmulatedModel

_LARGEST = 2**63 - 1  # an int64
IF_POSSIBLE = "if possible"  # of eft_ext.hf.generation.speculation, whose import takes seconds
_MODELS, _SAMPLING = "Models", "Sampling"


class Template(str, Enum):
    """The models that read a prompt through a chat template, the others reading plain text or a transcript."""

    all = "all"
    transcript = "transcript"
    tuned = "tuned"
    none = "none"


Large = Annotated[
    str | None,
    typer.Option(
        help="Large pre-trained model: hub id or folder; a checkpoint of eft pack, alone. Default: the embedded trio.",
        rich_help_panel=_MODELS,
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
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
AnyTokenizers = Annotated[
    bool,
    typer.Option(
        "--any-tokenizers",
        help="Do not compare the models' tokenizers: their ids are known to mean the same.",
        rich_help_panel=_MODELS,
    ),
]
SpecialToken = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TOKEN=POLICY",
        help="mix, own or never, for a special token that differs between the models: its text or id.",
        rich_help_panel=_MODELS,
    ),
]
ChatTemplate = Annotated[
    Template | None,
    typer.Option(
        help="Models that read a prompt as a chat: all, each by its own template and those without one by tuned's; "
        "transcript, where those without one read a transcript; tuned alone. Default: all if one has a template.",
        rich_help_panel=_MODELS,
    ),
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
        help="Tokens that the small model drafts for the others to verify, auto, or 0 for none. The answers' "
        "distribution stays. Default: auto where the models allow; none under a --seed, since auto looks at the "
        "clock.",
        rich_help_panel=_SAMPLING,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="The same seed gives the same answer.", callback=_seed.checked, rich_help_panel=_SAMPLING),
]


def special_tokens(given: Sequence[str] | None) -> dict[str | int, str] | None:
    """`--special-token` as policies by text or id, None where there is none.

    Raises ValueError for one without a token or a policy, or named twice.
    """
    found: dict[str | int, str] = {}
    for each in given or ():
        token, _, policy = each.rpartition("=")
        key = int(token) if token.isascii() and token.isdecimal() else token
        if not token or policy not in ("mix", "own", "never") or key in found:
            raise ValueError(
                f"--special-token: expected TOKEN=POLICY, each token once, the policy mix, own or never, got {each!r}"
            )
        found[key] = policy
    return found or None


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
        ("--max-new-tokens", max_new_tokens, 1, _LARGEST),
        ("--temperature", temperature, 0, None),
        ("--top-p", top_p, 0, 1),
        ("--top-k", top_k, 0, _LARGEST),
        ("--min-p", min_p, 0, 1),
    ):
        if value is not None and not (value >= low and (high is None or value <= high)):
            open_end = high is None or (high == _LARGEST and value < low)
            wanted = f"at least {low}" if open_end else f"from {low} to {high}"
            raise ValueError(f"{name}: expected a number {wanted}, got {value}")
    if temperature is not None and temperature >= BEYOND_FLOAT32:
        raise ValueError(f"--temperature: expected {finite(0, math.inf, temperature)}, got {temperature}")
    filters = {"top_p": top_p, "top_k": top_k, "min_p": min_p}
    given = {name: value for name, value in filters.items() if value is not None}
    if temperature is None:
        temperature = 1.0 if given else 0.0
    if temperature == 0:
        return {"max_new_tokens": max_new_tokens, "do_sample": False}
    warm = {"do_sample": True, "temperature": temperature, "top_k": 0, "seed": seed}
    return {"max_new_tokens": max_new_tokens, **warm, **given}


def speculation(given: str | None, seed: int | None) -> dict[str, Any]:
    """`--speculate` as keyword arguments for `EmulatedModel.generate`. Raises ValueError for a value out of range.

    Args:
        seed: of `--seed`, which reproduces: with one there are no drafts by default.
    """
    if given is None:
        return {} if seed is not None else {"speculate": IF_POSSIBLE}
    from eft_ext.decoding.speculative.engine import MAX_DRAFT_TOKENS  # seconds

    number = given.isascii() and given.isdecimal() and len(given) < 10
    if given != "auto" and not (number and int(given) <= MAX_DRAFT_TOKENS):
        raise ValueError(f"--speculate: expected auto or a number from 0 to {MAX_DRAFT_TOKENS}, got {given}")
    return {"speculate": given if given == "auto" else int(given)}


def prompts(
    model: EmulatedModel,
    turns: list[dict[str, str]],
    plain: str,
    template: Template | None,
    negative: str | None = None,
) -> dict[str, Any]:
    """Returns what each model reads of a conversation, as `generate(prompts=)` takes it; the first model's first.

    Args:
        turns: {"role", "content"}, the last one the user's.
        plain: the same as text to be continued, for the models that read no chat.
        negative: what the unconditional model of guidance reads.

    Raises:
        ValueError: a chat template is asked for and the tokenizer has none, or a prompt for a model that is not here.
    """
    lead, method = model.method.models[0], model.method
    has = model.chat_templates().lender is not None
    if template is None:
        template = Template.all if has else Template.none
    if template in (Template.all, Template.tuned) and not has:
        raise ValueError(f"--chat-template {template.value}: the tokenizer has none; use --chat-template none")
    chats = template in (Template.all, Template.transcript)
    if template is Template.tuned and "tuned" not in (*method.models, *method.groups):
        raise ValueError(f"--chat-template tuned: expected a tuned model, got {method!r}")
    if negative is not None and not method.last_token_only:
        raise ValueError("--negative-prompt: expected --method guidance beside it")
    read: dict[str, Any] = {lead: turns if chats else plain}
    if template is Template.tuned:
        read["tuned"] = turns
    if negative is not None:
        against = [{"role": "user", "content": negative}]
        read |= dict.fromkeys(method.last_token_only, against if chats else negative)
    return read


def form(template: Template | None) -> dict[str, Any]:
    """`--chat-template` as keyword arguments for `EmulatedModel.generate` and `score`."""
    return {"chat": "transcript"} if template is Template.transcript else {}
