"""Finds in tokens where a prompt begins, and where it ends and its response begins."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_BEFORE = 8  # tokens of a prompt that the text of the next one may depend on


def encode_pairs(
    tokenizer: Any, pairs: Iterable[tuple[str, str]], *, add_special_tokens: bool = True
) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and of the responses behind them, as they stand in the text of both.

    Both are tokenized as one text, which is cut where the prompt's own tokens end: SentencePiece puts a space before
    whatever it takes for a beginning. Where a token lies across the seam the two are tokenized apart. EOS that a
    tokenizer appends to every text is left out.

    Args:
        tokenizer: of transformers.
        pairs: (prompt, response) as text.
        add_special_tokens: those of a text's beginning, before the prompt; a rendered chat has its own.
    """
    pairs = list(pairs)
    if not pairs:
        return []
    special = {"add_special_tokens": add_special_tokens}
    prompts = tokenizer([prompt for prompt, _ in pairs], **special).input_ids
    wholes = tokenizer([prompt + response for prompt, response in pairs], **special).input_ids
    if add_special_tokens and (more := appended(tokenizer, "".join(pairs[0]))):
        prompts, wholes = ([ids[:-more] for ids in rows] for rows in (prompts, wholes))
    endings = [
        list(whole[len(prompt) :]) if whole[: len(prompt)] == prompt else continuation(tokenizer, text)
        for prompt, whole, (_, text) in zip(prompts, wholes, pairs, strict=True)
    ]
    heads = [begun_once(tokenizer, text, ids) for (text, _), ids in zip(pairs, prompts, strict=True)]
    return list(zip(heads, endings, strict=True))


def begun_once(tokenizer: Any, text: str, ids: Sequence[int]) -> list[int]:
    """Token ids of a text, with one BOS where the text brings its own, as a rendered chat does, and the tokenizer puts
    another before it."""
    start = getattr(tokenizer, "bos_token_id", None)
    twice = start is not None and list(ids[:2]) == [start, start] and not text.startswith(2 * tokenizer.bos_token)
    return list(ids[1:] if twice else ids)


def appended(tokenizer: Any, text: str) -> int:
    """The number of special tokens that the tokenizer puts behind any text, such as this one."""
    (whole,), (own,) = (tokenizer([text], add_special_tokens=special).input_ids for special in (True, False))
    more = len(whole) - len(own)
    before = next((i for i in range(more, -1, -1) if whole[i : i + len(own)] == own), more)
    return more - before if own else 0


def continuation(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text that goes on from another one, which is not at hand or has a token in common with it."""
    line = tokenizer("\n", add_special_tokens=False).input_ids  # few tokens begin with it and hold more
    whole = tokenizer("\n" + text, add_special_tokens=False).input_ids
    if line and whole[: len(line)] == line:
        return list(whole[len(line) :])
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def added_text(tokenizer: Any, before: Sequence[int], new: Sequence[int]) -> str:
    """Text that `new` adds to `before`, special tokens left out.

    Decoded alone, new tokens lose a leading space where SentencePiece takes them for a text's beginning.
    """
    context = last_tokens(tokenizer, before)
    start = str(tokenizer.decode(context, skip_special_tokens=True)).rstrip("\ufffd")  # of a character cut in two
    whole = str(tokenizer.decode([*context, *new], skip_special_tokens=True))
    return whole[len(start) :] if whole.startswith(start) else str(tokenizer.decode(new, skip_special_tokens=True))


def last_tokens(tokenizer: Any, before: Sequence[int]) -> list[int]:
    """The tokens of a text that the text of the next one may depend on.

    They begin where a character does: tokenizers that spell characters in bytes take half of one for an error in all.
    """
    special = set(tokenizer.all_special_ids)
    last = [token for token in before if token not in special][-_BEFORE:]
    whole = (last[i:] for i in range(len(last)) if "\ufffd" not in tokenizer.decode(last[i:]))
    return next(whole, last)  # all of them where a character is still to be completed
