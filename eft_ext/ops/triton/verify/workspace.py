"""The workspace of a verification."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.triton.common.workspace import Field, StepLayout, StepWorkspace, place_fields, size_of
from eft_ext.ops.triton.verify.accept import PositionSummary


class VerifyWorkspace(NamedTuple):
    """Summaries of p and q between the launches of a verification."""

    p: StepWorkspace
    q: StepWorkspace | None
    p_summary: PositionSummary
    q_summary: PositionSummary | None
    row_valid: Tensor  # int32 [B]
    sums: Tensor  # int64 [B, tiles], of the residual


class VerifyLayout(NamedTuple):
    """The fields that a verification keeps in its workspace, and their size."""

    rows: int
    num_drafts: int
    tiles: int  # of a row
    p: StepLayout
    q: StepLayout | None

    def summaries(self) -> list[Field]:
        f32, i32, i64 = torch.float32, torch.int32, torch.int64
        fields: list[Field] = [("row", "valid", i32, self.rows)]
        fields.append(("row", "sums", i64, self.rows * self.tiles))
        for part, layout, positions in (("p", self.p, self.num_drafts + 1), ("q", self.q, self.num_drafts)):
            n = self.rows * positions
            if layout is None:
                continue
            fields += [(part, name, i64, n) for name in ("total", "mass")]
            fields += [(part, name, f32, n) for name in ("cutoff", "reference")]
            fields.append((part, "valid", i32, n))
            if layout.lists:
                fields.append((part, "ties", i32, n * self.tiles))
            if part == "p":
                fields += [("p", "token", i32, n), ("p", "share", i64, n * self.tiles)]
            if layout.conservative:
                fields += [
                    ("p", "nucleus_cutoff", f32, n),
                    ("p", "nucleus_last", i32, n),
                    ("p", "nucleus_delta", f32, n),
                ]
            if layout.own:
                fields.append(("p", "own_delta", f32, n))
        return fields

    def size(self) -> int:
        """Bytes."""
        return self.p.size() + (self.q.size() if self.q else 0) + size_of(self.summaries())

    def place(self, buffer: Tensor) -> VerifyWorkspace:
        """The fields inside of a uint8 buffer."""
        middle = self.p.size()
        end = middle + (self.q.size() if self.q else 0)
        fields = place_fields(self.summaries(), buffer[end:])
        q = self.q.place(buffer[middle:end]) if self.q else None
        return VerifyWorkspace(
            self.p.place(buffer[:middle]),
            q,
            _summary(fields["p"]),
            _summary(fields["q"]) if self.q else None,
            fields["row"]["valid"],
            fields["row"]["sums"],
        )


def _summary(fields: dict[str, Tensor]) -> PositionSummary:
    return PositionSummary(**{name: fields.get(name) for name in PositionSummary._fields})
