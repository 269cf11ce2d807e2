"""The device memory of a decoding step: the graph holds these addresses, so nothing here is replaced."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eft_ext.ops.backends import native_loop
from eft_ext.ops.tracing import is_tracing

NOTHING = -2  # in the ring: this row had ended before
INVALID = -1  # from the fused step: no token could be drawn


class State:
    """Rows of a batch between two steps; `rows` of the storage are in use.

    Attributes (all on the device, the first dimension being rows):
        tokens: what each row reads next, int64 [rows, 1].
        steps: tokens that each row has drawn, int64: the position of its random stream.
        budgets: tokens that each row may draw.
        seeds: key of each row's random stream.
        alive: 1 where the row goes on, int64, so that lengths can be advanced by it.
        drawn: where the fused step writes.
        ring: the last tokens of all rows, [slots, storage].
        tick: steps of the batch, [1].
        ends: tokens that end a row, [n].
    """

    def __init__(self, rows: int, ends: list[int], slots: int, device: torch.device) -> None:
        def full(value: int, *shape: int) -> Tensor:
            return torch.full(shape, value, dtype=torch.int64, device=device)

        self._all = {name: full(0, rows) for name in ("steps", "budgets", "seeds", "alive", "drawn")}
        self._all["tokens"] = full(0, rows, 1)
        self.ring = full(NOTHING, slots, rows)
        self.tick = full(0, 1)
        self.ends = torch.tensor(ends, dtype=torch.int64, device=device)
        self.device = device
        self.use(rows)

    def use(self, rows: int) -> None:
        """Goes on with the first `rows` rows of the storage."""
        self.rows = rows
        self.steps, self.budgets, self.seeds, self.alive, self.drawn, self.tokens = (
            self._all[name][:rows] for name in ("steps", "budgets", "seeds", "alive", "drawn", "tokens")
        )

    @property
    def room(self) -> int:
        """Rows of the storage."""
        return len(self._all["alive"])

    def restart(self, rows: int) -> None:
        """No row is alive; the first `rows` are used."""
        self._all["alive"].zero_()
        self.use(rows)

    def move(self, source: list[int], target: list[int]) -> None:
        """Rows `source` to where `target` says."""
        at, to = (torch.tensor(rows, device=self.device) for rows in (source, target))
        for stored in self._all.values():
            stored[to] = stored[at]
        self._all["alive"][at] = 0

    def admit(self, slots: list[int], seeds: list[int], budgets: list[int]) -> Tensor:
        """New rows, which have drawn nothing yet, and alone are alive. Returns which others were."""
        at = torch.tensor(slots, device=self.device)
        others = self.alive.clone()
        self.alive.zero_()
        new = {"steps": [0] * len(slots), "alive": [1] * len(slots), "seeds": seeds, "budgets": budgets}
        for name, values in new.items():
            self._all[name][at] = torch.tensor(values, device=self.device)
        return others

    def attach(self, lengths: Sequence[Tensor]) -> None:
        """Tokens that each row holds in each model, [storage] each: the tail advances those on this device."""
        self._lengths = [x for x in lengths if x.device == self.device]
        self._elsewhere = [x for x in lengths if x.device != self.device]
        names = ("drawn", "tokens", "steps", "budgets", "alive")
        addresses = [self._all[name].data_ptr() for name in names]
        addresses += [x.data_ptr() for x in (self.ring, self.tick, self.ends)]
        own = [x.data_ptr() for x in self._lengths]
        self.prepared_tail = native_loop.prepare_advance(self.device, addresses, self.ring.shape, len(self.ends), own)

    def addresses(self) -> tuple[int, ...]:
        """The addresses of all of it."""
        return tuple(x.data_ptr() for x in (*self._all.values(), self.ring, self.tick, self.ends))

    def tail(self, *, fed: bool = True) -> None:
        """After a draw: tokens into the ring, lengths if a token was fed, ends and budgets, and on."""
        if fed:
            for x in self._elsewhere:
                x[: self.rows] += self.alive.to(x.device)
        if self.prepared_tail is not None and not is_tracing():
            native_loop.run_advance(self.prepared_tail, self.device, self.rows, fed)
            return
        lengths = [x[: self.rows] for x in self._lengths] if fed else []
        tail(self.drawn, self.tokens, self.steps, self.budgets, self.alive, self.ring, self.tick, self.ends, lengths)


def tail(
    drawn: Tensor,
    tokens: Tensor,
    steps: Tensor,
    budgets: Tensor,
    alive: Tensor,
    ring: Tensor,
    tick: Tensor,
    ends: Tensor,
    lengths: Sequence[Tensor],
) -> None:
    """`State.tail` of its tensors, in place; csrc/common/advance.h is its native version."""
    said = torch.where(alive > 0, drawn, NOTHING)
    ring[:, : said.shape[0]].index_copy_(0, tick % ring.shape[0], said[None])
    for held in (steps, *lengths):
        held.add_(alive)
    over = (drawn[:, None] == ends).any(1) | (steps >= budgets) | (drawn < 0)
    alive.masked_fill_(over, 0)
    tokens.copy_(drawn.clamp(min=0)[:, None])  # what a row that has ended reads does not matter
    tick.add_(1)
