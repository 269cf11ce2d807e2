"""Preferences as a loss takes them: chosen responses, rejected ones, and what a reference model makes of both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from eft_ext.dynamics.forward import sequence_log_probs
from eft_ext.dynamics.responses import Responses, concatenate


@dataclass(frozen=True)
class Pairs:
    """Preferences: row i of `chosen` is preferred over row i of `rejected`.

    Args:
        chosen, rejected: of equal length.
        reference: sequence log-probs of both under the reference model, each [rows]; `with_reference` computes them.
    """

    chosen: Responses
    rejected: Responses
    reference: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        if len(self.chosen) != len(self.rejected):
            got = f"{len(self.chosen)} and {len(self.rejected)}"
            raise ValueError(f"chosen, rejected: expected as many of one as of the other, got {got}")

    def __len__(self) -> int:
        return len(self.chosen)

    @cached_property
    def responses(self) -> Responses:
        """All chosen rows, then all rejected ones."""
        return concatenate([self.chosen, self.rejected])

    def to(self, device: torch.device | str) -> Pairs:
        """The same pairs on another device."""
        reference = self.reference and (self.reference[0].to(device), self.reference[1].to(device))
        return Pairs(self.chosen.to(device), self.rejected.to(device), reference)

    def with_reference(self, model: Any, batch_size: int = 16) -> Pairs:
        """The same pairs, with the sequence log-probs under `model` as their reference."""
        both = sequence_log_probs(model, self.responses, batch_size)
        return Pairs(self.chosen, self.rejected, (both[: len(self)], both[len(self) :]))
