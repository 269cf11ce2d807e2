"""The scratch between the two launches: what a tile keeps, in one buffer for each device and stream."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_ALIGNMENT = 256  # bytes


class TileSummary(NamedTuple):
    """Summaries of tiles' t (tile_summary.py); rows are (row, tile), for several models (row, model, tile)."""

    top: Any  # fp32, the largest t
    mass: Any  # uint64, W_T
    num_tokens: Any  # int32, of those that are not excluded
    listed_above: Any  # fp32, every token above it is listed
    num_listed: Any  # int32
    tokens: Any  # fp32 [tile, SLOTS], their t


class TileSums(NamedTuple):
    """Sums of tiles at temperature 1."""

    top: Any  # fp32, the largest logit
    total: Any  # fp32, sum of e = exp(logit - largest)
    weighted: Any  # fp32, sum of e (logit - largest)


class OrdinaryMaxima(NamedTuple):
    """Tiles' largest logits over the ordinary tokens that are not excluded (numerics.md §15)."""

    best: Any  # fp32, the mixture's; +inf: the row is invalid
    best_of_owner: Any  # fp32


class StepWorkspace(NamedTuple):
    """Summaries of one distribution's tiles, between the launches; verification has one for p and one for q."""

    mixture: TileSummary
    models: TileSummary  # conservative re-weighting: each model alone
    defining: TileSummary  # and the defining model's largest tokens
    sums: TileSums
    model_sums: TileSums
    ordinary: OrdinaryMaxima  # where a model has tokens of its own


class StepLayout(NamedTuple):
    """The fields that a call keeps in its workspace, and their size."""

    tiles: int  # of the whole batch
    slots: int
    models: int
    lists: bool
    conservative: bool
    details: bool
    own: bool = False  # a model has tokens of its own

    def fields(self) -> list[tuple[str, str, torch.dtype, int]]:
        """(part, field, dtype, elements) of everything that is kept."""
        f32, i32, i64 = torch.float32, torch.int32, torch.int64
        n, of_models = self.tiles, self.tiles * self.models
        lists = [("listed_above", f32, n), ("num_listed", i32, n), ("tokens", f32, n * self.slots)]
        fields = [("mixture", "top", f32, n), ("mixture", "mass", i64, n)]
        if self.lists:
            fields += [("mixture", *field) for field in lists]
        if self.conservative:
            fields += [("models", "top", f32, of_models), ("models", "mass", i64, of_models)]
            fields += [("defining", *field) for field in lists]
        if self.details:
            fields.append(("mixture", "num_tokens", i32, n))
            for name in TileSums._fields:
                fields += [("sums", name, f32, n), ("model_sums", name, f32, of_models)]
        if self.own:
            fields += [("ordinary", name, f32, n) for name in OrdinaryMaxima._fields]
        return fields

    def size(self) -> int:
        """Bytes."""
        return size_of(self.fields())

    def place(self, buffer: Tensor) -> StepWorkspace:
        """The fields inside of a uint8 buffer."""
        parts = place_fields(self.fields(), buffer)
        kinds: tuple[Any, ...] = (TileSummary, TileSummary, TileSummary, TileSums, TileSums, OrdinaryMaxima)
        made = [
            kind(**{field: parts.get(part, {}).get(field) for field in kind._fields})
            for part, kind in zip(StepWorkspace._fields, kinds, strict=True)
        ]
        return StepWorkspace(*made)


Field = tuple[str, str, torch.dtype, int]  # part, field, dtype, elements


def size_of(fields: list[Field]) -> int:
    """Bytes."""
    return sum(_padded(dtype.itemsize * count) for _, _, dtype, count in fields)


def place_fields(fields: list[Field], buffer: Tensor) -> dict[str, dict[str, Tensor]]:
    """Part -> field -> its place inside of a uint8 buffer."""
    parts: dict[str, dict[str, Tensor]] = {}
    start = 0
    for part, field, dtype, count in fields:
        end = start + dtype.itemsize * count
        parts.setdefault(part, {})[field] = buffer[start:end].view(dtype)
        start += _padded(end - start)
    return parts


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


_buffers: dict[Any, Tensor] = {}
_placed: dict[Any, Any] = {}
MAX_PLACED_LAYOUTS = 64  # placements kept; a loop needs one


def workspace(layout: Any, device: torch.device, given: Tensor | None) -> Any:
    """Returns what `layout` places (`StepWorkspace`, say), in `given` or the buffer of the device's current stream.

    A call under graph capture gets a buffer of its own, from the graph's memory.
    """
    if given is not None:
        return layout.place(_checked(given, layout.size(), device))
    stream = 0
    if device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():
            return layout.place(torch.empty(layout.size(), dtype=torch.uint8, device=device))
        stream = torch.cuda.current_stream(device).cuda_stream
    where = (device, stream)
    found = _placed.get((where, layout))
    if found is not None:
        return found
    buffer = _buffers.get(where)
    if buffer is None or buffer.numel() < layout.size() or len(_placed) >= MAX_PLACED_LAYOUTS:
        for key in [key for key in _placed if key[0] == where]:
            del _placed[key]
        if buffer is None or buffer.numel() < layout.size():
            buffer = _buffers[where] = torch.empty(layout.size(), dtype=torch.uint8, device=device)
    _placed[(where, layout)] = layout.place(buffer)
    return _placed[(where, layout)]


def _checked(given: Tensor, size: int, device: torch.device) -> Tensor:
    came = given.numel() * given.element_size()
    if given.device != device or not given.is_contiguous() or came < size or given.data_ptr() % 16:
        raise ValueError(
            f"workspace: expected a contiguous tensor of at least {size} bytes on {device}, aligned to 16 bytes, "
            f"got {came} bytes on {given.device}"
        )
    return given.view(-1).view(torch.uint8)
