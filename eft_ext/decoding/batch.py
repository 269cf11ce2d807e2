"""The host's view of a batch: the request in each slot, and how far that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from eft_ext.decoding.requests import Request


@dataclass(eq=False)
class Row:
    """A request in the batch.

    Attributes:
        prompts: length of its prompt for each model.
        tokens: those that the host has read.
        at_least, at_most: tokens read or under way; a round of drafts under way brings 1 to k + 1.
        ended: nothing that it draws from now on counts.
    """

    request: Request
    prompts: list[int]
    tokens: list[int] = field(default_factory=list)
    at_least: int = 0
    at_most: int = 0
    ended: bool = False

    @property
    def left(self) -> int:
        """Tokens that it may still get, if the rounds under way bring one each."""
        return self.request.max_new_tokens - self.at_least

    def held(self, model: int) -> int:
        """Tokens that a model holds of it at most; the last one drawn is not read yet."""
        return self.prompts[model] + min(self.at_most, self.request.max_new_tokens) - 1


class Launched(NamedTuple):
    """A step that the host has not read yet: its rows, drafts of the round, and when it was launched."""

    ticket: int
    rows: list[Row | None]
    drafts: int
    time: float


class RowTokens(NamedTuple):
    """The tokens of one row in one step: how many drafts counted, and how many of those were accepted."""

    tokens: list[int]
    accepted: int = 0
    drafted: int = 0


class Batch:
    """Slots that rows begin in, end in and move to.

    Args:
        room: slots there are.

    Attributes:
        slots: the row in each slot that runs now; None where it has ended.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.slots: list[Row | None] = [None] * room

    @property
    def rows(self) -> list[Row]:
        """Rows that go on, as far as the host knows."""
        return [row for row in self.slots if row is not None]

    @property
    def free(self) -> int:
        """Slots whose row has ended."""
        return self.room - len(self.rows)

    @property
    def needed(self) -> bool:
        """True if some row goes on after the steps that are under way."""
        return any(row is not None and row.left > 0 for row in self.slots)

    def last_draw(self, n: int) -> int:
        """The number (from 0) of the last token that any row gets at most, if each gets `n` more."""
        rows = (row for row in self.slots if row is not None)
        return max(min(row.at_most + n, row.request.max_new_tokens) for row in rows) - 1

    def widen(self) -> list[int]:
        """Runs all slots again. Returns the free ones."""
        self.slots += [None] * (self.room - len(self.slots))
        return [slot for slot, row in enumerate(self.slots) if row is None]

    def begin(self, slots: Sequence[int], rows: Sequence[Row]) -> list[Row | None]:
        """Puts rows into slots. Returns these rows where they are, and None everywhere else."""
        new: list[Row | None] = [None] * len(self.slots)
        for slot, row in zip(slots, rows, strict=True):
            self.slots[slot] = new[slot] = row
        return new

    def end(self, row: Row) -> int:
        """Frees the slot of a row, which may have moved since it was launched. Returns it."""
        slot = self.slots.index(row)
        self.slots[slot], row.ended = None, True
        return slot

    def narrow(self, width: int) -> tuple[list[int], list[int], list[int]]:
        """Moves the last rows into free slots, so that `width` slots hold them all.

        Returns:
            The slots that moved, where they went, and which former slot each of the `width` now is.
        """
        source = [slot for slot in range(width, len(self.slots)) if self.slots[slot] is not None]
        target = [slot for slot in range(width) if self.slots[slot] is None][: len(source)]
        order = list(range(width))
        for at, to in zip(source, target, strict=True):
            order[to] = at
        self.slots = [self.slots[slot] for slot in order]
        return source, target, order
