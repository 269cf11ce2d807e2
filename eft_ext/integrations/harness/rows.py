"""The harness' requests as rows of token ids, in batches that share contexts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

Row = tuple[tuple[int, ...], tuple[int, ...]]  # context and continuation

_MOST = 64  # rows of a batch, where one context has many continuations


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
    """Each row once, `contexts` different contexts at a time with their continuations, the longest first.

    Of texts of one length, those with as many scored tokens stand together: other positions have no logits.
    """
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in dict.fromkeys(rows):
        groups.setdefault(row[0], []).append(row)
    ordered = sorted(groups.values(), key=lambda group: max((len(a) + len(b), len(b)) for a, b in group), reverse=True)
    for first in range(0, len(ordered), contexts):
        batch = [row for group in ordered[first : first + contexts] for row in group]
        most = max(contexts, _MOST)
        yield from (batch[at : at + most] for at in range(0, len(batch), most))


def left_padded(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Prompts as `EmulatedModel` takes them; the mask says that a token which also pads is text."""
    longest = max(map(len, rows))
    ids = [[0] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids, device="cpu"), "attention_mask": torch.tensor(mask, device="cpu")}
