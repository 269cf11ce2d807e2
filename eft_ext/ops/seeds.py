"""The source of a row's 64 random bits: a seed and a position, a generator, or torch's default one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eft_ext.ops.inputs import check_integer
from eft_ext.ops.params import GREEDY_BELOW, Integer, Real
from eft_ext.ops.tracing import needs_operator

_LOW, _HIGH = -(2**63), 2**63 - 1


def seed_and_position(
    seed: int | Tensor | None,
    position: int | Tensor | None,
    generator: torch.Generator | None,
    temperature: Real,
    logits: Sequence[Tensor],
) -> tuple[Integer, Integer]:
    """The seed and position of every row (numerics.md §5)."""
    if seed is not None and generator is not None:
        raise ValueError("generator: expected none beside a seed, got both")
    if seed is not None and position is None:
        raise ValueError(
            "position: expected the number of tokens each row has generated so far, got None beside a seed "
            "(it would repeat one draw at every step)"
        )
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")
    batch, device = logits[0].shape[0], logits[0].device
    at = Integer(0) if position is None else check_integer("position", position, batch, device)
    if seed is not None:
        return check_integer("seed", seed, batch, device, low=None), at
    if temperature.rows is None and temperature.value < GREEDY_BELOW:
        return Integer(0), at  # greedy draws nothing, so it consumes nothing
    return _drawn(generator, logits), at


def random_seed(generator: torch.Generator | None) -> int:
    """64 bits from a CPU generator, torch's default one if None."""
    # The device is named because torch.set_default_device must not move the draw to another generator.
    return int(torch.randint(_LOW, _HIGH, (), dtype=torch.int64, generator=generator, device="cpu"))


def _drawn(generator: torch.Generator | None, logits: Sequence[Tensor]) -> Integer:
    batch, device = logits[0].shape[0], logits[0].device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            "seed: expected a tensor on the device during graph capture, got None (a replay would repeat it)"
        )
    if needs_operator(logits):
        # One seed a row: a scalar would have to leave the graph.
        if generator is not None and torch.compiler.is_compiling():
            raise ValueError("generator: expected None under torch.compile, got one (give a seed instead)")
        return Integer(0, _row_seeds(generator, batch).to(device))
    if generator is None or generator.device.type == "cpu":
        return Integer(random_seed(generator))
    return Integer(0, _row_seeds(generator, batch).to(device))


def _row_seeds(generator: torch.Generator | None, batch: int) -> Tensor:
    where = "cpu" if generator is None else generator.device
    return torch.randint(_LOW, _HIGH, (batch,), dtype=torch.int64, generator=generator, device=where)
