"""A step of the engine, and all that it reads and writes: what a graph captures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from eft_ext.decoding.cached_model import CachedModel
from eft_ext.decoding.placement import Parallel, together
from eft_ext.decoding.sampler import Sampler


class Stepper:
    """Runs steps of a batch whose state is on the device.

    Args:
        models: the mixture's, in its order.
        sampler: draws tokens from their logits.
        parallel: runs the models of a step.

    Attributes:
        state: a `State`, once a batch has been started.
    """

    def __init__(self, models: Sequence[CachedModel], sampler: Sampler, parallel: Parallel) -> None:
        self.models, self.sampler, self._parallel = list(models), sampler, parallel
        self.state: Any = None
        self._logits: tuple[list[Tensor], list[int]] = ([], [])  # of the last step, and the slots of its rows

    def step(self) -> None:
        """All models, one draw, and the state's advance: what a graph captures."""
        state = self.state
        logits = self._parallel([partial(model.run, state.tokens) for model in self.models])
        self._logits = together([x[:, -1] for x in logits], state.device), []
        self.sampler(self._logits[0], state.seeds, state.steps, state.next_tokens)
        state.advance()

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes that a graph of the step depends on, beside addresses: rows, and slots that attention reads."""
        return (self.state.rows, *(model.bound for model in self.models))

    def addresses(self) -> tuple[Any, ...]:
        """Addresses of everything that the step reads and writes from one call to the next."""
        of_models = (address for model in self.models for address in model.addresses())
        return (*self.state.addresses(), *of_models, *self.sampler.mixture.addresses())

    def forget_logits(self) -> None:
        """Drops those of an earlier step, or of a capture, which were never computed."""
        self._logits = ([], [])

    def logits_of(self, slot: int) -> list[Tensor] | None:
        """The models' logits [vocab_k] that a row of the last step was drawn from, if they are there."""
        logits, slots = self._logits
        if not logits:
            return None
        row = slots.index(slot) if slots else slot
        return [x[row] for x in logits]
