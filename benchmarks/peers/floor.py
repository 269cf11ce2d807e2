"""The floor in bytes: the weights that a token needs, over the bandwidth of reading memory."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from peers.clock import Clock


def bytes_a_token(models: Sequence[Any]) -> int:
    """Returns the weights that one step reads: without the rows of an embedding table, a tied head counted once."""
    total = 0
    for model in models:
        table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        total += sum(p.nbytes for p in model.parameters()) - (0 if table is head else table.nbytes)
    return total


def read_bandwidth(clock: Clock) -> float:
    """Returns bytes a second of reading 512 MiB, the better of a sum and a product with a vector.

    The median of nine calls of each. Nothing may lie in a cache: 512 MiB are more than any has. On a GPU it reads 8
    GiB, beside which a launch takes no time.
    """
    size = 2**29 if clock.device == "cpu" else 2**33
    x = torch.ones(size // 4, device=clock.device)
    matrix, vector = x.view(-1, 4096), torch.ones(4096, device=clock.device)
    calls = (x.sum, lambda: torch.mv(matrix, vector))
    return max(x.nbytes / statistics.median(clock.time(call).seconds for _ in range(9)) for call in calls)
