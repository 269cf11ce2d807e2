"""The points of gpu_step.py's grid, the headline ones first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product

OPTIONS: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "T": {"temperature": 0.7},
    "top-p .9": {"temperature": 0.7, "top_p": 0.9},
    "top-k 50, top-p .9": {"temperature": 0.7, "top_k": 50, "top_p": 0.9},
    "everything": {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
}
VOCABS = (128256, 32000, 151936, 256000)
BATCHES = (1, 64, 256, 8)
ALL_BATCHES = (1, 64, 256, 8, 2, 4, 16, 32, 128)
MODELS = (3, 1)
ELEMENT_BYTES = 2  # bf16


@dataclass(frozen=True)
class Point:
    vocab: int
    batch: int
    options: str
    models: int

    @property
    def bytes(self) -> int:
        """Bytes that one read of the inputs moves."""
        return self.models * self.batch * self.vocab * ELEMENT_BYTES

    @property
    def headline(self) -> bool:
        """True where the compiled chain is measured: compiling takes longer than all else together."""
        return self.vocab == 128256 and self.batch in (1, 64, 256) and self.options == "top-p .9"

    def record(self) -> dict[str, object]:
        return {**asdict(self), "bytes": self.bytes}


def points(
    full: bool = False,
    vocabs: Sequence[int] = (),
    batches: Sequence[int] = (),
    options: Sequence[str] = (),
    models: Sequence[int] = (),
) -> list[Point]:
    """Returns 160 points, or 360 in full: headline points, then one vocabulary after another. Values that are given
    replace the grid's own."""
    batches = batches or (ALL_BATCHES if full else BATCHES)
    grid = [
        Point(v, b, o, k) for v, b, o, k in product(vocabs or VOCABS, batches, options or OPTIONS, models or MODELS)
    ]
    return sorted(grid, key=lambda p: not p.headline)  # stable
