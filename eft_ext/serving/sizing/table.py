"""A sizing as lines of text."""

from __future__ import annotations

from eft_ext._text import aligned
from eft_ext.hf.loading.memory import readable
from eft_ext.serving.sizing.result import Sizing


def lines(sizing: Sizing) -> list[str]:
    """The models' table, what fits the GPUs, and why."""
    table = [("model", "kind", "parameters", "weights", "dtype", "cache a token")]
    for row in sizing.rows:
        cells = (f"{row.parameters:,}", readable(row.weight_bytes), row.dtype, readable(row.kv_bytes))
        table.append((row.name, row.kind, *cells))
    total = (f"{sizing.parameters:,}", readable(sizing.weight_bytes), "", readable(sizing.kv_bytes))
    table.append(("together", "", *total))
    return [*aligned(table, right=(2, 3, 5)), "", *_fit(sizing)]


def _fit(sizing: Sizing) -> list[str]:
    gpus = sizing.gpus
    if gpus is None or not sizing.tp:
        return [sizing.why, *sizing.notes]
    table = [
        ("each GPU", "memory", readable(gpus.bytes)),
        ("", f"for vLLM, {100 * sizing.utilization:.3g} %", readable(sizing.budget)),
        ("", "weights", readable(sizing.weights)),
        ("", "reserve, estimated", readable(sizing.reserve)),
        ("", f"cache, {sizing.kv_cache_dtype}", readable(sizing.kv)),
        ("a replica", "GPUs", f"{sizing.tp}"),
        ("", "tokens in the cache", f"{sizing.tokens:,}"),
        ("", f"requests of {sizing.max_model_len:,} tokens", f"{sizing.requests:.1f}"),
        (f"{gpus.count} GPU{'s' * (gpus.count > 1)}", "replicas", f"{sizing.dp}"),
        ("", "tokens in the caches", f"{sizing.total_tokens:,}"),
    ]
    options = f"options: {' '.join(sizing.flags)}" if sizing.flags else "options: none"
    return [*aligned(table, right=(2,)), "", sizing.why, *sizing.notes, options]
