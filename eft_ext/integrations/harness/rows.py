"""The harness' requests as rows of token ids, in batches that share contexts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

Row = tuple[tuple[int, ...], tuple[int, ...]]  # context and continuation

_MOST = 64  # rows of a batch, where one context has many continuations
_SHORT = 16  # tokens of padding that cost less than another batch


def cut(context: Sequence[int], continuation: Sequence[int], max_length: int) -> Row:
    """One request, its context cut from the left as the harness cuts it: `max_length` tokens are read.

    Raises ValueError for a context without tokens, and a continuation of none, or of more than are read.
    """
    if not context:
        raise ValueError("context: expected at least one token, got none; add_bos_token=True gives it one")
    if not 0 < len(continuation) <= max_length:
        raise ValueError(f"continuation: expected 1 to {max_length} tokens (max_length), got {len(continuation)}")
    kept = max_length + 1 - len(continuation)
    return tuple(context[-kept:]), tuple(continuation)


def batches(rows: Iterable[Row], contexts: int) -> Iterator[list[Row]]:
    """Each row once, at most `contexts` different contexts at a time with their continuations, the longest first.

    A context that is no longer than its continuation counts for each, as the windows of whole texts do. Of texts of
    one length, those with as many scored tokens stand together: other positions have no logits. A batch ends where the
    next text is so much shorter that a quarter of it would be padding.
    """
    groups: dict[tuple[tuple[int, ...], ...], list[Row]] = {}
    for row in dict.fromkeys(rows):
        groups.setdefault(row[:1] if len(row[0]) > len(row[1]) else row, []).append(row)
    sized = [(max((len(a) + len(b), len(b)) for a, b in group), group) for group in groups.values()]
    batch: list[list[Row]] = []
    longest = 0
    for (length, _), group in sorted(sized, key=lambda one: one[0], reverse=True):
        if len(batch) == contexts or 4 * (length + _SHORT) < 3 * longest:
            yield from _parts(batch, contexts)
            batch = []
        longest = longest if batch else length
        batch.append(group)
    yield from _parts(batch, contexts)


def _parts(groups: list[list[Row]], contexts: int) -> Iterator[list[Row]]:
    together, most = [row for group in groups for row in group], max(contexts, _MOST)
    yield from (together[at : at + most] for at in range(0, len(together), most))


def left_padded(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Prompts as `EmulatedModel` takes them; the mask says that a token which also pads is text."""
    longest = max(map(len, rows))
    ids = [[0] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids, device="cpu"), "attention_mask": torch.tensor(mask, device="cpu")}
