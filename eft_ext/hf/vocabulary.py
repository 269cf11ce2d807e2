"""Whether the models mean the same by the same token id."""

from __future__ import annotations

import warnings
from typing import Any

from eft_ext.hf.members import Member

# Whitespace, case, digits, accents composed and decomposed, scripts, emoji, code: where tokenizers part ways.
_PROBES = (
    "Hello  world,\tthis is  a test.\n\n  Indented",
    "don't STOP 3.14159 12345678 e\u0301 vs \u00e9 \uff21\ufb01",
    "\u0645\u0631\u062d\u0628\u0627 \u4f60\u597d \u043f\u0440\u0438\u0432\u0435\u0442",
    "\U0001f469\u200d\U0001f680 \u200b",
    "def f(x):\n    return x**2  # \u00b2\r\n",
)
_SHOWN = 5
_ANYWAY = " (check_tokenizers=False, or --any-tokenizers, takes them as they are)"


def compare_tokenizers(name: str, tokenizer: Any, other_name: str, other: Any) -> None:
    """Raise ValueError unless two tokenizers share every token and cut text alike.

    Which token ends a text or pads one may differ (a chat model often ends at a token of its own): only
    the meaning of the ids matters. The first differences are shown.
    """
    if tokenizer is other:
        return
    mine, theirs = tokenizer.get_vocab(), other.get_vocab()
    if mine != theirs:
        changed = sorted(
            (mine.get(t, theirs.get(t)), t) for t in mine.keys() | theirs.keys() if mine.get(t) != theirs.get(t)
        )
        shown = "; ".join(
            f"{token!r} is {_id(mine, token)} in {name}, {_id(theirs, token)} in {other_name}"
            for _, token in changed[:_SHOWN]
        )
        raise ValueError(
            f"{other_name}: expected the tokenizer of {name} ({len(mine)} tokens), got one of {len(theirs)} "
            f"tokens that differs in {len(changed)}: {shown}{'; ...' if len(changed) > _SHOWN else ''}{_ANYWAY}"
        )
    for probe in _PROBES:
        a = tokenizer(probe, add_special_tokens=False)["input_ids"]
        b = other(probe, add_special_tokens=False)["input_ids"]
        if a != b:
            at = next(i for i in range(max(len(a), len(b))) if a[i : i + 1] != b[i : i + 1])
            pieces = [t.convert_ids_to_tokens(ids[at : at + 3]) for t, ids in ((tokenizer, a), (other, b))]
            raise ValueError(
                f"{other_name}: expected to cut text as {name} does, but {probe!r} differs from token {at}: "
                f"{pieces[0]} in {name}, {pieces[1]} in {other_name}{_ANYWAY}"
            )


def _id(vocabulary: dict[str, int], token: str) -> str:
    return str(vocabulary.get(token, "absent"))


def widths_of(members: tuple[Member, ...]) -> dict[str, int]:
    """Columns of each model's logits, padding included, by name."""
    return {member.name: member.vocab_size for member in members}


def check_widths(members: tuple[Member, ...], tokenizer: Any | None) -> dict[str, int]:
    """`widths_of`; raises ValueError if a model has fewer logits than the tokenizer has ids."""
    widths = widths_of(members)
    if tokenizer is not None:
        needed = max(tokenizer.get_vocab().values()) + 1
        for name, width in widths.items():
            if width < needed:
                raise ValueError(f"{name}: expected logits for the tokenizer's {needed} ids, got {width} columns")
    return widths


def warn_softcaps(members: tuple[Member, ...]) -> None:
    """Warn where models bound their logits differently: their difference then is no log-ratio."""
    caps = {member.name: getattr(member.config, "final_logit_softcapping", None) for member in members}
    if len(set(caps.values())) > 1:
        said = ", ".join(f"{name} {cap if cap is not None else 'none'}" for name, cap in caps.items())
        warnings.warn(f"the models bound their logits differently (final_logit_softcapping: {said})", stacklevel=3)
