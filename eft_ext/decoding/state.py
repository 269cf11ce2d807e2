"""The device memory of a decoding step, and the way of its tokens to the host.

A graph holds these addresses, so nothing here is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eft_ext.decoding.batch import RowTokens
from eft_ext.ops.backends import native_loop
from eft_ext.ops.tracing import is_tracing

INACTIVE = -2  # in the ring: this row had ended before
INVALID = -1  # from the fused step: no token could be drawn
_NAMES = ("steps", "max_new_tokens", "seeds", "active", "next_tokens", "tokens")


class State:
    """Rows of a batch between two steps; `rows` of the storage are in use.

    Attributes (all on the device, the first dimension being rows):
        tokens: read next, int64 [rows, 1].
        steps: number of tokens that each row has drawn, int64: the position of its random stream.
        max_new_tokens: number of tokens that each row may draw.
        seeds: key of each row's random stream.
        active: 1 where the row goes on, int64, so that lengths can be advanced by it.
        next_tokens: where the fused step writes.
        ring: the last tokens of all rows, [slots, storage].
        tick: number of steps of the batch, [1].
        eos_token_ids: tokens that end a row, [n].
    """

    def __init__(self, rows: int, eos_token_ids: list[int], slots: int, device: torch.device) -> None:
        def full(value: int, *shape: int) -> Tensor:
            return torch.full(shape, value, dtype=torch.int64, device=device)

        self._all = {name: full(0, rows) for name in _NAMES}
        self._all["tokens"] = full(0, rows, 1)
        self.ring = full(INACTIVE, slots, rows)
        self.tick = full(0, 1)
        self.eos_token_ids = torch.tensor(eos_token_ids, dtype=torch.int64, device=device)
        self.device = device
        self.use(rows)

    def use(self, rows: int) -> None:
        """Goes on with the first `rows` rows of the storage."""
        self.rows = rows
        self.steps, self.max_new_tokens, self.seeds, self.active, self.next_tokens, self.tokens = (
            self._all[name][:rows] for name in _NAMES
        )

    @property
    def room(self) -> int:
        """Rows of the storage."""
        return len(self._all["active"])

    def restart(self, rows: int) -> None:
        """No row is active; the first `rows` are used."""
        self._all["active"].zero_()
        self.use(rows)

    def move(self, source: list[int], target: list[int]) -> None:
        """Rows `source` to where `target` says."""
        at, to = (torch.tensor(rows, device=self.device) for rows in (source, target))
        for stored in self._all.values():
            stored[to] = stored[at]
        self._all["active"][at] = 0

    def admit(self, slots: list[int], seeds: list[int], max_new_tokens: list[int]) -> Tensor:
        """New rows, which have drawn nothing yet, and alone are active. Returns which others were."""
        at = torch.tensor(slots, device=self.device)
        others = self.active.clone()
        self.active.zero_()
        new = {"steps": [0] * len(slots), "active": [1] * len(slots), "seeds": seeds, "max_new_tokens": max_new_tokens}
        for name, values in new.items():
            self._all[name][at] = torch.tensor(values, device=self.device)
        return others

    def end(self, slots: list[int]) -> None:
        """Rows in these slots draw nothing more."""
        self.active[torch.tensor(slots, device=self.device)] = 0

    def attach(self, lengths: Sequence[Tensor]) -> None:
        """Tokens that each row holds in each model, [storage] each: `advance` adds to those on this device."""
        self._prepare(self.ring, lengths)

    def _prepare(self, ring: Tensor, lengths: Sequence[Tensor]) -> None:
        """The native advance, which writes into `ring` [slots, storage]."""
        self._lengths = [x for x in lengths if x.device == self.device]
        self._elsewhere = [x for x in lengths if x.device != self.device]
        names = ("next_tokens", "tokens", "steps", "max_new_tokens", "active")
        addresses = [self._all[name].data_ptr() for name in names]
        addresses += [x.data_ptr() for x in (ring, self.tick, self.eos_token_ids)]
        own = [x.data_ptr() for x in self._lengths]
        num_eos = len(self.eos_token_ids)
        self.prepared_advance = native_loop.prepare_advance(self.device, addresses, ring.shape, num_eos, own)

    def addresses(self) -> tuple[int, ...]:
        """The addresses of all of it."""
        return tuple(x.data_ptr() for x in (*self._all.values(), self.ring, self.tick, self.eos_token_ids))

    def advance(self, *, read: bool = True) -> None:
        """After a draw: tokens into the ring, lengths if a token was read, ended rows, and on."""
        if read:
            for x in self._elsewhere:
                x[: self.rows] += self.active.to(x.device)
        if self.prepared_advance is not None and not is_tracing():
            native_loop.run_advance(self.prepared_advance, self.device, self.rows, read)
            return
        lengths = [x[: self.rows] for x in self._lengths] if read else []
        advance(
            self.next_tokens,
            self.tokens,
            self.steps,
            self.max_new_tokens,
            self.active,
            self.ring,
            self.tick,
            self.eos_token_ids,
            lengths,
        )


def advance(
    next_tokens: Tensor,
    tokens: Tensor,
    steps: Tensor,
    max_new_tokens: Tensor,
    active: Tensor,
    ring: Tensor,
    tick: Tensor,
    eos_token_ids: Tensor,
    lengths: Sequence[Tensor],
) -> None:
    """`State.advance` of its tensors, in place; csrc/common/advance.h is its native version."""
    entry = torch.where(active > 0, next_tokens, INACTIVE)
    ring[:, : entry.shape[0]].index_copy_(0, tick % ring.shape[0], entry[None])
    for count in (steps, *lengths):
        count.add_(active)
    ended = (next_tokens[:, None] == eos_token_ids).any(1) | (steps >= max_new_tokens) | (next_tokens < 0)
    active.masked_fill_(ended, 0)
    tokens.copy_(next_tokens.clamp(min=0)[:, None])  # an ended row may read any token
    tick.add_(1)


class Readback:
    """Reads the ring's slots in the order in which steps write them.

    On CUDA a slot is copied to pinned memory behind the step, and an event says when it has arrived; on the CPU the
    slot is read where it is.
    """

    def __init__(self, ring: Tensor) -> None:
        self._ring = ring
        self._sent = 0
        self._pinned: Tensor | None = None
        if ring.is_cuda:
            self._pinned = torch.empty(ring.shape, dtype=ring.dtype, pin_memory=True)
            self._events = [torch.cuda.Event() for _ in range(len(ring))]

    def send(self) -> int:
        """After a step: its ticket."""
        slot = self._sent % len(self._ring)
        self._sent += 1
        if self._pinned is not None:
            self._pinned[slot].copy_(self._ring[slot], non_blocking=True)
            self._events[slot].record(torch.cuda.current_stream(self._ring.device))
        return slot

    def receive(self, ticket: int) -> list[RowTokens]:
        """The tokens that every row of the storage drew in that step; waits for it."""
        if self._pinned is not None:
            self._events[ticket].synchronize()
        entries = (self._ring if self._pinned is None else self._pinned)[ticket].tolist()
        if self._ring.ndim == 2:
            return [RowTokens([] if token == INACTIVE else [token]) for token in entries]
        return [RowTokens(tokens[:count], accepted, drafted) for count, accepted, drafted, *tokens in entries]
