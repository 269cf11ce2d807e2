"""A step of the engine, and all that it reads and writes: what a graph captures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from eft_ext.decoding.cached_model import CachedModel, Joint
from eft_ext.decoding.placement import Parallel, together
from eft_ext.decoding.sampler import Sampler


class Stepper:
    """Runs steps of a batch whose state is on the device.

    Args:
        models: the mixture's, in its order.
        sampler: draws tokens from their logits.
        parallel: runs the models of a step.
        joint: passes that run several of the models at once.

    Attributes:
        state: a `State`, once a batch has been started.
    """

    def __init__(
        self, models: Sequence[CachedModel], sampler: Sampler, parallel: Parallel, joint: Sequence[Joint] = ()
    ) -> None:
        self.models, self.sampler, self._parallel = list(models), sampler, parallel
        passes: dict[int, Any] = {id(model): one for one in joint for model in one.models}
        whose = [passes.get(id(model), model) for model in self.models]
        self._passes = list(dict.fromkeys(whose))
        # The pass that has a model's logits, and the first and the distance of its rows there.
        self._rows = [
            (self._passes.index(one), *((one.models.index(model), len(one.models)) if one is not model else (0, 1)))
            for model, one in zip(self.models, whose, strict=True)
        ]
        self.state: Any = None
        self._logits: tuple[list[Tensor], list[int]] = ([], [])  # of the last step, and the slots of its rows

    def step(self) -> None:
        """All models, one draw, and the state's advance: what a graph captures."""
        state = self.state
        found = self._parallel([partial(one.run, state.tokens) for one in self._passes])
        self._logits = together([found[k][first::by, -1] for k, first, by in self._rows], state.device), []
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
