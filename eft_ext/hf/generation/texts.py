"""The new tokens of a batch's rows, which may advance by different amounts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from eft_ext.decoding.requests import TokenOutput


class Texts:
    """Rows' tokens as they come, and the columns that all rows have, as transformers would have drawn them.

    A row with drafts may be ahead of others. Streamers and stopping criteria are shown a column when every row that
    goes on has it, so they see what they see without drafts.

    Args:
        prompts: the first model's [rows, length], as processors and criteria see them.
        pad: fills rows that have ended.
        watched: processors or criteria look at `ids`.

    Attributes:
        tokens: new ones of each row.
        going: whether each row goes on.
        columns: how many have been shown.
    """

    def __init__(self, prompts: Tensor, pad: int, *, watched: bool = False) -> None:
        rows = len(prompts)
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self._sources: list[list[int]] = [[] for _ in range(rows)]
        self.going = [True] * rows
        self.columns = 0
        self._prompts, self._pad = prompts, pad
        self._new = prompts.new_full((rows, 64), pad) if watched else None
        self._places: list[tuple[int, int, int]] = []  # row, place and token of those that `_new` lacks

    def add(self, outputs: Sequence[TokenOutput]) -> None:
        """Adds the tokens that a step has brought."""
        for row, token, last, source in outputs:
            self.tokens[row].append(token)
            self._sources[row].append(source)
            self.going[row] = not last
            if self._new is not None:
                self._places.append((row, len(self.tokens[row]) - 1, token))

    def end(self, row: int, length: int) -> None:
        """A row ends with its first `length` new tokens."""
        self.going[row] = False
        del self.tokens[row][length:], self._sources[row][length:]
        if self._new is not None:
            self._places = [place for place in self._places if place[0] != row or place[1] < length]
            self._new[row, length:] = self._pad

    def further(self) -> list[int]:
        """Rows that go on behind the columns shown, or have tokens there already."""
        both = enumerate(zip(self.tokens, self.going, strict=True))
        return [row for row, (own, on) in both if on or len(own) > self.columns]

    def next_columns(self, *, all_of_them: bool = False) -> Iterator[list[int]]:
        """Columns that every row that goes on has now, or all there are; ended rows are padded."""
        while True:
            going = [len(own) for own, on in zip(self.tokens, self.going, strict=True) if on and not all_of_them]
            if self.columns >= min(going, default=max(map(len, self.tokens))):
                return
            place = self.columns
            self.columns += 1
            yield [own[place] if place < len(own) else self._pad for own in self.tokens]

    def ids(self, length: int) -> Tensor:
        """Prompts and the first `length` new tokens of every row, [rows, prompt + length]; others are padding."""
        assert self._new is not None
        if self._places:
            rows, columns, tokens = torch.tensor(self._places, device=self._new.device).T
            while self._new.shape[1] <= max(place for _, place, _ in self._places):
                self._new = torch.cat([self._new, torch.full_like(self._new, self._pad)], dim=1)
            self._new[rows, columns] = tokens.to(self._new.dtype)
            self._places.clear()
        return torch.cat([self._prompts, self._new[:, :length]], dim=1)

    def whole(self) -> tuple[Tensor, Tensor]:
        """New tokens and their sources [rows, new] on the CPU, -1 the source behind a row's end."""
        longest = max(map(len, self.tokens))
        ids = torch.tensor([own + [self._pad] * (longest - len(own)) for own in self.tokens], device="cpu")
        sources = [own + [-1] * (longest - len(own)) for own in self._sources]
        return ids, torch.tensor(sources, dtype=torch.int8, device="cpu")
