"""The sizes of a checkpoint's models, and of what fits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from eft_ext.serving.sizing.gpus import Gpus


@dataclass(frozen=True)
class Row:
    """One model. Bytes are those of the whole model, over all GPUs that share it.

    Args:
        name: in the method.
        kind: transformers' name of its type.
        parameters: how many; tied ones count once.
        dtype: of its weights, or the kind of their quantisation.
        weight_bytes: of its weights in memory.
        kv_bytes: of one token's keys and values in all layers.
    """

    name: str
    kind: str
    parameters: int
    dtype: str
    weight_bytes: int
    kv_bytes: int


@dataclass(frozen=True)
class Sizing:
    """The memory of a checkpoint, and what fits.

    Args:
        rows: the models; one that drafts comes again at the end.
        dtype: that vLLM runs all models in.
        kv_cache_dtype: of keys and values.
        max_model_len: the longest request, in tokens.
        utilization: the share of a GPU that vLLM takes.
        speculate: drafts a step.
        gpus: where it is to run.
        tp, dp: GPUs of a replica, and replicas; 0 where nothing fits, or no GPUs are given.
        budget: bytes of a GPU that vLLM takes; the next three are its parts.
        weights, kv: bytes of weights and of the cache on one GPU.
        reserve: an estimate of the bytes beside them.
        tokens: in the cache of a replica, when all requests have `max_model_len`.
        requests: of `max_model_len` in the cache of a replica.
        why: one line on the choice, or on what would fit.
        notes: lines on what the numbers leave out.
    """

    rows: tuple[Row, ...]
    dtype: str
    kv_cache_dtype: str
    max_model_len: int
    utilization: float
    speculate: int = 0
    gpus: Gpus | None = None
    tp: int = 0
    dp: int = 0
    budget: int = 0
    weights: int = 0
    reserve: int = 0
    kv: int = 0
    tokens: int = 0
    requests: float = 0.0
    why: str = ""
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Parameters of all rows."""
        return sum(row.parameters for row in self.rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all rows' weights."""
        return sum(row.weight_bytes for row in self.rows)

    @property
    def kv_bytes(self) -> int:
        """Bytes of one token's keys and values in all rows."""
        return sum(row.kv_bytes for row in self.rows)

    @property
    def total_tokens(self) -> int:
        """Tokens in the caches of all replicas."""
        return self.dp * self.tokens

    @property
    def flags(self) -> list[str]:
        """Options of vLLM for the suggestion; none for one GPU."""
        sizes = {"--tensor-parallel-size": self.tp, "--data-parallel-size": self.dp}
        return [part for name, value in sizes.items() if value > 1 for part in (name, str(value))]

    def to_dict(self) -> dict[str, Any]:
        """All fields and totals, for JSON."""
        totals = ("parameters", "weight_bytes", "kv_bytes", "total_tokens", "flags")
        return asdict(self) | {name: getattr(self, name) for name in totals}
