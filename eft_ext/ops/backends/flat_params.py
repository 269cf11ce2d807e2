"""The parameters as an operator's flat arguments, and back: what a schema of `torch.library` can carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eft_ext.ops.inputs import in_memory
from eft_ext.ops.params import DraftParams, Integer, MixParams, Real, SamplingParams
from eft_ext.ops.special_tokens import SpecialMasks

MIX_SCHEMA = (
    "Tensor[] logits, float[] weights, Tensor?[] weight_rows, SymInt vocab_size, int conservative, "
    "bool drop_outside, float conservative_top_p, Tensor? conservative_top_p_rows, Tensor? bias, "
    "Tensor? token_bitmask, Tensor? special_tiles, Tensor? special_masks, int special_owner"
)
SAMPLING_SCHEMA = ", ".join(
    f"{kind} {name}, Tensor? {name}_rows"
    for name, kind in {
        "temperature": "float",
        "top_k": "SymInt",
        "top_p": "float",
        "min_p": "float",
        "seed": "SymInt",
        "position": "SymInt",
    }.items()
)
DRAFT_SCHEMA = (
    "Tensor drafts, Tensor? draft_logits, SymInt lengths, Tensor? lengths_rows, float draft_temperature, "
    "Tensor? draft_temperature_rows, SymInt draft_top_k, Tensor? draft_top_k_rows, float draft_top_p, "
    "Tensor? draft_top_p_rows, float draft_min_p, Tensor? draft_min_p_rows"
)
_NUM_MIX = MIX_SCHEMA.count(",") + 1


def flatten(mix: MixParams, sampling: SamplingParams | None = None) -> list[Any]:
    """The arguments of an operator of `MIX_SCHEMA` and, with `sampling`, `SAMPLING_SCHEMA`."""
    head = [list(mix.logits), [w.value for w in mix.weights], [w.rows for w in mix.weights], mix.vocab_size]
    head += [mix.conservative, mix.drop_outside, *mix.conservative_top_p, mix.bias, mix.token_bitmask]
    head += mix.special or [None, None, -1]
    return head + [part for option in sampling or () for part in option]


def unflatten(arguments: Sequence[Any]) -> tuple[MixParams, SamplingParams | None]:
    """The inverse of `flatten`."""
    head, special = arguments[: _NUM_MIX - 3], arguments[_NUM_MIX - 3 : _NUM_MIX]
    logits, weights, rows, size, conservative, drop, nucleus, nucleus_rows, bias, token_bitmask = head
    # Of an operator's arguments torch writes out all but a list of optional tensors.
    written = (None if r is None else in_memory("weights", r) for r in rows)
    pairs = tuple(Real(w, r) for w, r in zip(weights, written, strict=True))
    masks = None if special[0] is None else SpecialMasks(*special)
    reweighted = (conservative, drop, Real(nucleus, nucleus_rows))
    mix = MixParams(tuple(logits), pairs, size, *reweighted, bias, token_bitmask, masks)
    rest = arguments[_NUM_MIX:]
    if not rest:
        return mix, None
    temperature, top_k, top_p, min_p, seed, position = (rest[i : i + 2] for i in range(0, 12, 2))
    return mix, SamplingParams(
        Real(*temperature), Integer(*top_k), Real(*top_p), Real(*min_p), Integer(*seed), Integer(*position)
    )


def flatten_draft(drafted: DraftParams) -> list[Any]:
    """The arguments of `DRAFT_SCHEMA`."""
    return [drafted.drafts, drafted.logits, *(part for option in drafted[2:] for part in option)]


NUM_DRAFT = DRAFT_SCHEMA.count(",") + 1


def unflatten_draft(arguments: Sequence[Any]) -> DraftParams:
    """The inverse of `flatten_draft`."""
    lengths, temperature, top_k, top_p, min_p = (arguments[i : i + 2] for i in range(2, 12, 2))
    options = (Integer(*lengths), Real(*temperature), Integer(*top_k), Real(*top_p), Real(*min_p))
    return DraftParams(arguments[0], arguments[1], *options)
