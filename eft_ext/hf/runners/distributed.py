"""Models sharded over processes (`tp_plan` under torchrun): every rank computes logits, one of them draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.distributed as dist
from torch import Tensor

from eft_ext.hf.members import Member


def sharded(members: Sequence[Member]) -> bool:
    """True if a model's forward pass is one of several processes' together. Processes that each run a model of their
    own, as for data parallelism, are none of that, and draw their own tokens."""
    together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return together and any((getattr(member.model, "tp_size", None) or 1) > 1 for member in members)


def draw_once(draw: Callable[[], None], out: Tensor) -> None:
    """Runs `draw`, which writes `out`, on rank 0 alone, and gives every rank what it drew.

    Ranks may round their logits differently in the last bit: two draws could part ways, and with them the loops.
    """
    if dist.get_rank() == 0:
        draw()
    dist.broadcast(out, src=0)


def agreed(flags: Tensor) -> Tensor:
    """Rank 0's flags, on every rank. Ranks look at their own clocks: one would leave the loop while the others wait
    for it in the next forward pass."""
    said = flags.long()
    dist.broadcast(said, src=0)
    return said.to(flags.dtype)
