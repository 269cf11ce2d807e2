"""The engine's draw: the mixture's fused step, with the options of the rows that are in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.requests import Request
from eft_ext.hf.generation.mixture import Mixture
from eft_ext.hf.runners.distributed import draw_once
from eft_ext.ops import fused_mix
from eft_ext.ops.method import Method, Number
from eft_ext.ops.params import ConservativeParams
from eft_ext.ops.prepared_step import PreparedStep


@dataclass(frozen=True)
class _Weighed(Method):
    """A method's weights for some rows, at addresses that stay."""

    names: tuple[str, ...]
    values: tuple[Number, ...]
    settings: ConservativeParams | None

    @property
    def models(self) -> tuple[str, ...]:
        return self.names

    def at(self, step: int | None) -> Method:
        return self

    def weights(self) -> tuple[Number, ...]:
        return self.values

    def conservative(self) -> ConservativeParams | None:
        return self.settings

    def mapped(self, change: Any) -> _Weighed:
        """With `change` of each tensor [rows] in its place."""

        def one(value: Any) -> Any:
            return change(value) if isinstance(value, Tensor) else value

        settings = self.settings and self.settings._replace(top_p=one(self.settings.top_p))
        return _Weighed(self.names, tuple(map(one, self.values)), settings)

    @property
    def tensors(self) -> list[Tensor]:
        found = [*self.values, *([self.settings.top_p] if self.settings else [])]
        return [value for value in found if isinstance(value, Tensor)]


class MixtureDraw:
    """One call of the fused step. Seeds, steps and `out` have to stay where they were at the first call.

    What `method.set` changes counts from the next call on; a step that was captured in a CUDA graph keeps the numbers
    it was captured with until the next generation.

    Args:
        mixture: weights; tensors hold one value for each job, by its number.
        options: temperature and filters, the same for all.
        slots: rows of the batch.
        device: where the logits meet.
        once: rank 0 draws for all processes (`eft_ext.hf.runners.distributed`).
    """

    def __init__(
        self, mixture: Mixture, options: dict[str, Any], slots: int, device: torch.device, *, once: bool = False
    ) -> None:
        self._once, self._device = once, device
        self._mixture, self._options = mixture.to(device), options
        self._job_in = [0] * slots
        self.changed = False  # by `method.set`: what was captured before holds other numbers
        self._retired: list[Any] = []  # tensors that captured graphs still point to
        self._take()

    def _take(self) -> None:
        """The mixture's weights as they are now."""
        self._steps: dict[int, PreparedStep] = {}  # by rows in use
        slots = len(self._job_in)
        self._jobs = self._weighed()
        self._slots = self._jobs.mapped(lambda value: value.new_zeros(slots))
        self._copy(self._jobs, self._job_in, list(range(slots)))

    def _weighed(self) -> _Weighed:
        return _Weighed(self._mixture.method.models, self._mixture.weights, self._mixture.conservative)

    def renew(self, mixture: Mixture) -> None:
        """Other values for the jobs to come, in the same form (see `Mixture.scalars`)."""
        self._mixture = mixture.to(self._device)
        self._jobs = self._weighed()

    def __call__(
        self, logits: Sequence[Tensor], seeds: Tensor, steps: Tensor, out: Tensor, slots: Tensor | None = None
    ) -> None:
        if self._once:
            draw_once(lambda: self._draw(logits, seeds, steps, out, slots), out)
        else:
            self._draw(logits, seeds, steps, out, slots)

    def _now(self) -> Mixture:
        """With the parameters that `method.set` has given the method in between."""
        return self._mixture.at(0)

    def _draw(self, logits: Sequence[Tensor], seeds: Tensor, steps: Tensor, out: Tensor, slots: Tensor | None) -> None:
        now = self._now()
        if now is not self._mixture:
            if now.method.is_scheduled:
                raise ValueError(
                    "method.set: this generation began with numbers; give a function of the step before it starts"
                )
            self._retired.append((self._steps, self._slots))
            self._mixture, self.changed = now, True
            self._take()
        if slots is not None:
            some = self._slots.mapped(lambda value: value[slots])
            fused_mix(logits, some, seed=seeds, position=steps, out=out, **self._options)
            return
        rows = len(seeds)
        if rows not in self._steps:
            first = self._slots.mapped(lambda value: value[:rows])
            self._steps[rows] = PreparedStep(first, seed=seeds, position=steps, out=out, **self._options)
        self._steps[rows](logits)

    def admit(self, slots: list[int], jobs: Sequence[Request]) -> None:
        for slot, job in zip(slots, jobs, strict=True):
            self._job_in[slot] = job.number
        self._copy(self._jobs, [job.number for job in jobs], slots)

    def move(self, source: list[int], target: list[int]) -> None:
        moved = [self._job_in[slot] for slot in source]
        for slot, job in zip(target, moved, strict=True):
            self._job_in[slot] = job
        self._copy(self._slots, source, target)

    def _copy(self, given: _Weighed, source: list[int], target: list[int]) -> None:
        for values, slots in zip(given.tensors, self._slots.tensors, strict=True):
            at, to = (torch.tensor(places, device=values.device) for places in (source, target))
            slots[to] = values[at]
