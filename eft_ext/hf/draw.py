"""How the engine draws: the mixture's fused step, with the options of the rows that are in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.engine import Job
from eft_ext.hf.mixture import Mixture
from eft_ext.ops.prepared import PreparedStep


class MixtureDraw:
    """One call of the fused step. Seeds, steps and `out` have to stay where they were at the first call.

    Args:
        mixture: weights; tensors hold one value for each job, by its number.
        options: temperature and filters, the same for all.
        slots: rows of the batch.
        device: where the logits meet.
    """

    def __init__(self, mixture: Mixture, options: dict[str, Any], slots: int, device: torch.device) -> None:
        self._jobs, self._options = mixture.to(device), options
        self._steps: dict[int, PreparedStep] = {}  # by rows in use
        # Room for a value in every slot, at an address that a graph may keep.
        self._slots = Mixture(
            **{k: v.new_zeros(slots) if isinstance(v, Tensor) else v for k, v in vars(self._jobs).items()}
        )

    def __call__(
        self, logits: Sequence[Tensor], seeds: Tensor, steps: Tensor, out: Tensor, slots: Tensor | None = None
    ) -> None:
        if slots is not None:
            self._slots.keep(slots).sample(logits, seed=seeds, position=steps, out=out, **self._options)
            return
        rows = len(seeds)
        if rows not in self._steps:
            mixture = self._slots.keep(slice(rows))
            self._steps[rows] = mixture.prepare(seed=seeds, position=steps, out=out, **self._options)
        self._steps[rows](logits)

    def admit(self, slots: list[int], jobs: Sequence[Job]) -> None:
        self._copy(self._jobs, [job.number for job in jobs], slots)

    def move(self, source: list[int], target: list[int]) -> None:
        self._copy(self._slots, source, target)

    def _copy(self, given: Mixture, source: list[int], target: list[int]) -> None:
        for name, value in vars(given).items():
            if isinstance(value, Tensor):
                at, to = (torch.tensor(places, device=value.device) for places in (source, target))
                getattr(self._slots, name)[to] = value[at]
