"""New tokens as the text that they add to what stood before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BEFORE = 8  # tokens of a prompt that the text of the next one may depend on


def added_text(tokenizer: Any, before: Sequence[int], new: Sequence[int]) -> str:
    """Text that `new` adds to `before`, special tokens left out.

    Decoded alone, new tokens lose a leading space where SentencePiece takes them for a text's beginning.
    """
    context = list(before[-_BEFORE:])
    start = str(tokenizer.decode(context, skip_special_tokens=True))
    whole = str(tokenizer.decode([*context, *new], skip_special_tokens=True))
    if whole.startswith(start):
        return whole[len(start) :]
    return str(tokenizer.decode(new, skip_special_tokens=True))  # `before` ends within a character
