"""One round of speculation: drafts, a verification, and caches that roll back; or an ordinary step in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from eft_ext.decoding.engine import together
from eft_ext.decoding.speculative.sampler import Sampler
from eft_ext.decoding.speculative.token_source import TokenSource, source_of_token
from eft_ext.ops import VerifyResult


class Reader(Protocol):
    """A model and its cache as the loop needs them; `decoding.StaticCacheModel` is one."""

    @property
    def lengths(self) -> Tensor: ...  # tokens that each row holds, [rows]

    def prefill(self, ids: Tensor, mask: Tensor | None = None) -> Tensor: ...
    def forward(self, tokens: Tensor) -> Tensor: ...
    def crop(self, lengths: Tensor) -> None: ...
    def select_rows(self, rows: list[int]) -> None: ...
    def set_max_length(self, longest: int) -> None: ...


@dataclass
class Rows:
    """The rows that go on; every list and tensor has one entry for each, in the same order.

    Attributes:
        numbers: theirs in the prompts.
        done: new tokens that they have.
        left: new tokens that they may still get.
        last: the token that is read next, [rows].
        seeds: keys of their random streams, [rows].
        sampler: with their options.
    """

    numbers: list[int]
    done: list[int]
    left: list[int]
    last: Tensor
    seeds: Tensor
    sampler: Sampler

    @property
    def positions(self) -> Tensor:
        """Positions in the random streams, [rows]."""
        return torch.tensor(self.done, device=self.seeds.device)

    def longest(self, prompts: list[int]) -> int:
        """The tokens of the longest row: its prompt and its new ones, of which the last is not read yet."""
        return max(prompts[row] + n - 1 for row, n in zip(self.numbers, self.done, strict=True))

    def after(self, tokens: list[list[int]], stay: list[int]) -> Rows:
        """Those in places `stay`, having got these tokens."""
        rows = replace(
            self,
            numbers=[self.numbers[i] for i in stay],
            done=[self.done[i] + len(tokens[i]) for i in stay],
            left=[self.left[i] - len(tokens[i]) for i in stay],
        )
        if len(stay) < len(self.numbers):
            at = torch.tensor(stay, device=self.seeds.device)
            rows.last, rows.seeds, rows.sampler = self.last[at], self.seeds[at], self.sampler.keep(at)
        return rows

    def check(self, place: int, accepted: int, status: int) -> None:
        """Raises RuntimeError where a row has no token behind its accepted drafts."""
        if status:
            raise RuntimeError(
                f"row {self.numbers[place]}, new token {self.done[place] + accepted}: a model's logits hold NaN or "
                "+inf, or no token is left to choose from"
            )


class Drawn(NamedTuple):
    """The tokens that each row drew, before they are cut off where the row ends."""

    tokens: list[list[int]]
    marks: list[list[TokenSource]]


def ordinary(rows: Rows, logits: Sequence[Tensor]) -> Drawn:
    """One token for each row, from every model's logits [rows, vocab]."""
    given = together(logits, rows.seeds.device)
    rows.last = rows.sampler.step(given, rows.seeds, rows.positions)
    tokens = rows.last.tolist()
    for place, token in enumerate(tokens):
        rows.check(place, 0, int(token < 0))
    return Drawn([[token] for token in tokens], [[TokenSource.step] for _ in tokens])


def drafted(readers: Sequence[Reader], rows: Rows, lengths: list[int], width: int) -> Drawn:
    """The tokens of a round that drafts `lengths` [rows] tokens; what does not stand leaves the caches."""
    k, at_most = max(lengths), torch.tensor(lengths, device=rows.seeds.device)
    verdict = draft_and_verify(readers, rows.sampler, rows.last, k, at_most, width, rows.seeds, rows.positions)
    accepted = verdict.num_accepted
    host = torch.cat([accepted[:, None], verdict.status[:, None], verdict.tokens], dim=1).tolist()
    for reader in readers:  # of the k + 1 tokens read, the last one before and the accepted ones stand
        reader.crop(reader.lengths - (k - accepted).to(reader.lengths.device))
    rows.last = verdict.tokens.gather(1, accepted[:, None])[:, 0]
    tokens, marks = [], []
    for place, ((good, status, *new), drafted) in enumerate(zip(host, lengths, strict=True)):
        rows.check(place, good, status)
        tokens.append(new[: good + 1])
        marks.append([source_of_token(i, good, drafted) for i in range(good + 1)])
    return Drawn(tokens, marks)


def draft_and_verify(
    readers: Sequence[Reader],
    sampler: Sampler,
    last: Tensor,
    k: int,
    lengths: Tensor,
    width: int,
    seeds: Tensor,
    at: Tensor,
) -> VerifyResult:
    """Every reader reads `last` [rows] and k drafts; what became of the first `lengths` [rows] of them."""
    # The draft model reads one token at a time, the last draft too: its logits there are its share of the bonus.
    read = torch.empty(len(last), k + 1, dtype=torch.int64, device=last.device)  # the last token, then the drafts
    read[:, 0] = last
    own: list[Tensor] = []  # the draft model's logits [rows, 1, vocab]
    for i in range(k + 1):
        own += together([readers[sampler.draft].forward(read[:, i : i + 1])], last.device)
        if i < k:
            drawn = sampler.propose(own[-1][:, 0], width, seeds, at + i)
            read[:, i + 1] = drawn.clamp(min=0)  # invalid rows are found by the verification
    logits = [torch.cat(own, dim=1) if m == sampler.draft else reader.forward(read) for m, reader in enumerate(readers)]
    logits = together(logits, last.device)
    return sampler.verify(read[:, 1:], logits, lengths, seeds, at)
