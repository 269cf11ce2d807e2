"""Brings drawn tokens to the host: a copy under way for every step that it has not read yet."""

from __future__ import annotations

import torch
from torch import Tensor


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

    def receive(self, ticket: int) -> list[int]:
        """The tokens that every row of the storage drew in that step; waits for it."""
        if self._pinned is None:
            return list(self._ring[ticket].tolist())
        self._events[ticket].synchronize()
        return list(self._pinned[ticket].tolist())
