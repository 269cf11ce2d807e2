"""Teacher-forced responses: what is observed, and what is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from eft_ext.dynamics.chats import Pair, encode, ending

Ids = Sequence[int]


@dataclass(frozen=True)
class Responses:
    """Prompts with their responses, padded on the right.

    Results about them are flat: one row per response token, response after response, `tokens` rows in all. They have
    no rows for padding and prompts.

    Args:
        ids: int64 [rows, length].
        attention: bool [rows, length], false on padding.
        response: bool [rows, length], true on the tokens of the response. False in the first column, which no
            position predicts.
        where: each row's place, such as its file and line, for messages; empty where it is not known.

    Raises:
        ValueError: the shapes differ, a row has no response token or one in its first column.
    """

    ids: Tensor
    attention: Tensor
    response: Tensor
    where: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, mask in (("attention", self.attention), ("response", self.response)):
            if mask.shape != self.ids.shape or mask.dtype != torch.bool:
                got = f"{mask.dtype} {list(mask.shape)}"
                raise ValueError(f"{name}: expected bool {list(self.ids.shape)} as of ids, got {got}")
        if self.ids.ndim != 2 or not len(self.ids):
            raise ValueError(f"ids: expected [rows, length] with at least one row, got {list(self.ids.shape)}")
        if len(self.where) not in (0, len(self.ids)):
            raise ValueError(f"where: expected {len(self.ids)}, one for each row, or none, got {len(self.where)}")
        self._refuse("response: expected at least one prompt token before it, got none", self.response[:, 0])
        self._refuse("response: expected at least one token, got none", ~self.response.any(1))
        gaps = self.attention[:, 1:] & ~self.attention[:, :-1]
        self._refuse("attention: expected padding on the right alone, got some before a token", gaps.any(1))
        self._refuse("response: expected no padding in it, got some", (self.response & ~self.attention).any(1))

    def _refuse(self, message: str, wrong: Tensor) -> None:
        """Raises ValueError that names the first row that is wrong, bool [rows]."""
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(f"{message} in {self.where[row] if self.where else f'row {row}'}")

    @classmethod
    def from_ids(cls, pairs: Iterable[tuple[Ids, Ids]], where: Iterable[str] = ()) -> Responses:
        """Makes a batch of (prompt ids, response ids). Padding is token 0, which every model has."""
        rows = [(len(prompt), [*prompt, *response]) for prompt, response in pairs]
        width = max((len(both) for _, both in rows), default=0)
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        attention, response_mask = (torch.zeros(len(rows), width, dtype=torch.bool) for _ in range(2))
        for row, (start, both) in enumerate(rows):
            ids[row, : len(both)] = torch.tensor(both)
            attention[row, : len(both)] = True
            response_mask[row, start : len(both)] = True
        return cls(ids, attention, response_mask, tuple(where))

    @classmethod
    def from_text(cls, tokenizer: Any, pairs: Iterable[Pair], end: bool = True, where: Iterable[str] = ()) -> Responses:
        """Tokenizes (prompt, response): the prompt with the tokenizer's special tokens, the response without.

        Each pair is tokenized as one text and cut at the prompt. A prompt may be a chat,
        [{"role": ..., "content": ...}, ...], which the tokenizer's template renders with its own special tokens.

        Args:
            tokenizer: of transformers.
            pairs: prompts, each a text or a chat, with the text that follows.
            end: append the end-of-text token to each response, and observe it too, if the tokenizer has one.
            where: each row's place, for messages.

        Raises:
            ValueError: text that is no valid Unicode, or a chat that the template does not take.
        """
        where = list(where)
        tail = ending(tokenizer, end)
        return cls.from_ids(((p, [*a, *tail]) for p, a in encode(tokenizer, pairs, where)), where)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _where(self) -> tuple[Tensor, Tensor]:
        row, column = self.response.nonzero(as_tuple=True)
        return row, column

    @property
    def row(self) -> Tensor:
        """The response that each token belongs to, int64 [tokens]."""
        return self._where[0]

    @property
    def position(self) -> Tensor:
        """The column of each token, int64 [tokens]; the model predicts it one column earlier."""
        return self._where[1]

    @property
    def targets(self) -> Tensor:
        """The tokens themselves, int64 [tokens]."""
        return self.ids[self._where]

    @property
    def lengths(self) -> Tensor:
        """The number of tokens of each response, int64 [rows]."""
        return self.response.sum(1)

    def sums(self, values: Tensor) -> Tensor:
        """Sums values [tokens, ...] over each response, [rows, ...]."""
        return values.new_zeros(len(self), *values.shape[1:]).index_add(0, self.row, values)

    def means(self, values: Tensor) -> Tensor:
        """Averages values [tokens] over each response, [rows]."""
        return self.sums(values) / self.lengths

    def split(self, values: Tensor) -> list[Tensor]:
        """Splits values [tokens, ...] into one tensor for each response."""
        return list(values.split(self.lengths.tolist()))

    def to(self, device: torch.device | str) -> Responses:
        return Responses(self.ids.to(device), self.attention.to(device), self.response.to(device), self.where)

    def take(self, rows: slice | Tensor) -> Responses:
        """Returns some of the responses, padded to the longest of them."""
        width = int(self.attention[rows].sum(1).max())
        ids, attention, response = (x[rows, :width] for x in (self.ids, self.attention, self.response))
        return Responses(ids, attention, response)

    def batches(self, rows: int) -> Iterator[Responses]:
        """Yields at most `rows` responses at a time, in order. Raises ValueError for less than one."""
        check_batch_size(rows)
        return (self.take(slice(i, i + rows)) for i in range(0, len(self), rows))

    @property
    def responses(self) -> Responses:
        """The responses themselves, so that `Responses` and `Pairs` can be used alike."""
        return self


def check_batch_size(batch_size: int) -> None:
    """Raises ValueError below 1."""
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")


def concatenate(parts: Sequence[Responses]) -> Responses:
    """One batch out of several, padded to the longest."""
    width = max(part.ids.shape[1] for part in parts)

    def widened(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, width - x.shape[1]))

    return Responses(
        torch.cat([widened(part.ids) for part in parts]),
        torch.cat([widened(part.attention) for part in parts]),
        torch.cat([widened(part.response) for part in parts]),
        tuple(place for part in parts for place in part.where) if all(part.where for part in parts) else (),
    )
