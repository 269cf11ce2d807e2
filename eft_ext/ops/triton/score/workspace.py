"""The workspace of scoring, in which its launches leave results for each other.

A row is read in parts of 256 tokens, each by one warp: 8 tokens a thread, and no sum waits for another warp's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.triton.common.launch_sizes import TILE
from eft_ext.ops.triton.common.workspace import Field, OrdinaryMaxima, StepLayout, StepWorkspace, place_fields, size_of

PART = 256

# What a part leaves of each distribution, words of 32 bits, with e = exp(logit - top). Tokens at the part's maximum are
# counted and not summed, so 1 - p is computed without cancellation when p is near 1.
SHARE = (
    "top",  # the largest logit; the mixture's is +inf where the part spoils its row
    "lower",  # sum of e over the tokens below the maximum, and so the next two
    "weighted",  # sum of e (logit - top)
    "squares",  # sum of e^2
    "counts",  # an integer: tokens at the maximum; above 16 bits, those before the target (in its own part: above it)
)

# And what it leaves of the second read.
CHANGE = (
    "absolute",  # sum |p - q|
    "divergence",  # sum p log(p / q) - p + q
    "up",  # the largest p - q
    "down",  # the largest q - p
)


class DistributionSummary(NamedTuple):
    """A row's distributions, [rows, D], for the second read, and the row itself, [rows]."""

    top: Any  # fp32, the largest logit
    rest: Any  # fp64, log sum exp(logit - top)
    scale: Any  # fp32, the largest probability
    valid: Any  # int32, of the row
    defined: Any  # int32, conservative re-weighting: whether the row is, and its nucleus (conservative.py)
    nucleus_cutoff: Any
    nucleus_last: Any
    nucleus_delta: Any
    own_delta: Any  # fp32, where a model has tokens of its own (own_tokens.py)


class ScoreWorkspace(NamedTuple):
    """Sums and summaries of rows between the launches of scoring."""

    shares: Any  # fp32 [rows, parts, D, 5]
    summaries: DistributionSummary
    changes: Any  # fp32 [rows, parts, 4]
    nuclei: StepWorkspace | None  # conservative re-weighting: models' masses, the defining model's largest tokens
    ordinary: OrdinaryMaxima  # where a model has tokens of its own


class ScoreLayout(NamedTuple):
    """The fields that a call keeps in its workspace, and their size."""

    rows: int
    models: int
    parts: int  # of a row
    nuclei: StepLayout | None
    own: bool  # a model has tokens of its own

    def fields(self) -> list[Field]:
        f32, f64, i32 = torch.float32, torch.float64, torch.int32
        n, parts = self.rows * (self.models + 1), self.rows * self.parts
        fields: list[Field] = [("parts", "shares", f32, n * self.parts * len(SHARE))]
        fields.append(("parts", "changes", f32, parts * len(CHANGE)))
        fields += [("summaries", "top", f32, n), ("summaries", "rest", f64, n), ("summaries", "scale", f32, n)]
        fields.append(("summaries", "valid", i32, self.rows))
        if self.nuclei is not None:
            fields += [("summaries", "defined", i32, self.rows), ("summaries", "nucleus_cutoff", f32, self.rows)]
            fields += [("summaries", "nucleus_last", i32, self.rows), ("summaries", "nucleus_delta", f32, self.rows)]
        if self.own:
            fields.append(("summaries", "own_delta", f32, self.rows))
            fields += [("ordinary", name, f32, parts * PART // TILE) for name in OrdinaryMaxima._fields]
        return fields

    def size(self) -> int:
        """Bytes."""
        return size_of(self.fields()) + (self.nuclei.size() if self.nuclei else 0)

    def place(self, buffer: Tensor) -> ScoreWorkspace:
        """The fields inside of a uint8 buffer."""
        parts, end = place_fields(self.fields(), buffer), size_of(self.fields())
        summaries = {name: parts["summaries"].get(name) for name in DistributionSummary._fields}
        nuclei = self.nuclei.place(buffer[end:]) if self.nuclei else None
        ordinary = OrdinaryMaxima(*(parts.get("ordinary", {}).get(name) for name in OrdinaryMaxima._fields))
        return ScoreWorkspace(
            parts["parts"]["shares"], DistributionSummary(**summaries), parts["parts"]["changes"], nuclei, ordinary
        )
