"""The host's view of a batch: the job that each slot works on, and how far that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from eft_ext.decoding.requests import Request


@dataclass(eq=False)
class Row:
    """A job in the batch.

    Attributes:
        prompts: how long its prompt is for each model.
        tokens: what the host has read of it.
        drawn: how many tokens of it are read or under way.
    """

    job: Request
    prompts: list[int]
    tokens: list[int] = field(default_factory=list)
    drawn: int = 0

    @property
    def left(self) -> int:
        """Tokens that its budget leaves after those under way."""
        return self.job.budget - self.drawn


class Batch:
    """Slots that rows begin in, end in and move to.

    Args:
        room: slots there are.

    Attributes:
        slots: of the rows that run now, what each works on; None where its job has ended.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.slots: list[Row | None] = [None] * room

    @property
    def rows(self) -> list[Row]:
        """Those whose jobs go on, as far as the host knows."""
        return [row for row in self.slots if row is not None]

    @property
    def free(self) -> int:
        """Slots whose job has ended."""
        return self.room - len(self.rows)

    @property
    def needed(self) -> bool:
        """True if some row goes on after the steps that are under way."""
        return any(row is not None and row.left > 0 for row in self.slots)

    def widen(self) -> list[int]:
        """Runs all slots there are again; which of them are free."""
        self.slots += [None] * (self.room - len(self.slots))
        return [slot for slot, row in enumerate(self.slots) if row is None]

    def begin(self, slots: Sequence[int], rows: Sequence[Row]) -> list[Row | None]:
        """Puts rows into slots. Returns these rows where they are, and None everywhere else."""
        new: list[Row | None] = [None] * len(self.slots)
        for slot, row in zip(slots, rows, strict=True):
            self.slots[slot] = new[slot] = row
        return new

    def end(self, row: Row) -> None:
        """Frees the slot of a row, which may have moved since it was launched."""
        self.slots[self.slots.index(row)] = None

    def narrow(self, width: int) -> tuple[list[int], list[int], list[int]]:
        """Lets the last rows take the places of those that ended, so that `width` slots hold them all.

        Returns:
            The slots that moved, where they went, and which of the former slots each of the `width` now is.
        """
        source = [slot for slot in range(width, len(self.slots)) if self.slots[slot] is not None]
        target = [slot for slot in range(width) if self.slots[slot] is None][: len(source)]
        order = list(range(width))
        for at, to in zip(source, target, strict=True):
            order[to] = at
        self.slots = [self.slots[slot] for slot in order]
        return source, target, order
