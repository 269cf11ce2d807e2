"""The logits before the scored tokens of a batch, some columns at a time.

Rows with the same prompt, such as the choices of one question, share a reading of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eft_ext.decoding.model_facts import learned_positions
from eft_ext.decoding.requests import Prompt
from eft_ext.hf.members import Member
from eft_ext.hf.runners.checks import reads_pieces, reads_rows
from eft_ext.hf.runners.dynamic_cache_model import DynamicCacheModel

_WORTHWHILE = 0.8  # of the tokens that whole rows have: a second pass has a price of its own


def whole_rows(member: Member, ids: Tensor, mask: Tensor | None, length: int, step: int) -> Iterator[Tensor]:
    """The logits before each of the last `length` tokens of a text, `step` columns at a time, [rows, step, vocab].

    Going by a cache rather than from hidden states to the output embedding keeps what families do to their logits on
    the way (soft caps, scales). A model that cannot be read in pieces is read whole.
    """
    ids, mask = ids[:, :-1], torch.ones_like(ids[:, :-1]) if mask is None else mask[:, :-1]
    several = step < length and reads_pieces(member, ids.shape[1])
    model = DynamicCacheModel(member, use_cache=several)
    if not several:
        yield from model.read(ids, mask, length).split(step, dim=1)
        return
    first = ids.shape[1] - length + step
    yield model.read(ids[:, :first], mask[:, :first], step)
    for more in zip(ids[:, first:].split(step, dim=1), mask[:, first:].split(step, dim=1), strict=True):
        yield model.forward(*more)


@dataclass(frozen=True)
class SharedPrompts:
    """A model's rows, cut into prompts, each there once, and responses.

    Attributes:
        ids, mask: of the prompts [prompts, length], padded on the left.
        prompt_of: the prompt of each row.
        responses: [rows, length], padded on the right by any token, which nothing that counts sees.
    """

    ids: Tensor
    mask: Tensor
    prompt_of: list[int]
    responses: Tensor

    @property
    def length(self) -> int:
        """Tokens of the longest row that is read, padding between its parts included."""
        return self.ids.shape[1] + self.responses.shape[1] - 1

    @property
    def tokens(self) -> int:
        """Tokens that are read, padding included."""
        return self.ids.numel() + len(self.prompt_of) * (self.responses.shape[1] - 1)

    def suits(self, member: Member) -> bool:
        """True if the model reads them as it reads whole rows."""
        limit = learned_positions(member.model)
        return (
            (limit is None or self.length <= limit)
            and reads_rows(member, self.ids, self.mask)
            and reads_rows(member, self.responses, None)
            and reads_pieces(member, self.length)
        )

    def pieces(self, member: Member, step: int) -> Iterator[Tensor]:
        """The logits before each token of the responses: one column, then `step` at a time, [rows, step, vocab]."""
        model = DynamicCacheModel(member)
        first = model.read(self.ids, self.mask)
        if self.prompt_of != list(range(len(self.ids))):
            model.select_rows(self.prompt_of)
            first = first[self.prompt_of]
        yield first
        if self.responses.shape[1] > 1:
            for more in self.responses[:, :-1].split(step, dim=1):
                yield model.forward(more)


def shared_prompts(
    members: Sequence[Member], texts: Sequence[Prompt], counts: Sequence[int]
) -> list[SharedPrompts] | None:
    """The texts of all models with their prompts cut off; None where whole rows are to be read.

    Args:
        texts: of each model, padded on the left.
        counts: tokens at the end of each row that are scored.
    """
    each = [_cut(*text, counts) for text in texts]
    whole = sum(ids.shape[0] * (ids.shape[1] - 1) for ids, _ in texts)
    if sum(own.tokens for own in each) > _WORTHWHILE * whole:
        return None
    return each if all(own.suits(member) for member, own in zip(members, each, strict=True)) else None


def _cut(ids: Tensor, mask: Tensor | None, counts: Sequence[int]) -> SharedPrompts:
    lengths = [ids.shape[1]] * len(ids) if mask is None else mask.sum(1).tolist()
    prompts: dict[tuple[int, ...], int] = {}
    prompt_of, responses = [], []
    for row, length, count in zip(ids.tolist(), lengths, counts, strict=True):
        prompt_of.append(prompts.setdefault(tuple(row[len(row) - length : len(row) - count]), len(prompts)))
        responses.append(row[len(row) - count :] + row[-1:] * (max(counts) - count))
    longest = max(map(len, prompts))
    pads = [longest - len(prompt) for prompt in prompts]
    together = [[prompt[-1]] * pad + list(prompt) for prompt, pad in zip(prompts, pads, strict=True)]
    masks = [[0] * pad + [1] * (longest - pad) for pad in pads]
    new = [torch.tensor(rows, device=ids.device) for rows in (together, masks, responses)]
    return SharedPrompts(new[0], new[1], prompt_of, new[2])
