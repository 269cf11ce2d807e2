"""Times out of one result of gpu_step.py."""

from __future__ import annotations

from typing import Any

Result = dict[str, Any]
GRAPH = ("graph_cold_us", "eager_cold_us")  # the first that a peer has


def time_of(times: dict[str, Any], *names: str) -> float | None:
    """Returns the first of these times that was measured."""
    return next((times[name] for name in names if name in times), None)


def best_peer(result: Result, prefix: str = "") -> tuple[str, float] | None:
    """Returns the fastest implementation that is not ours, replayed where it could be captured."""
    found = [
        (name, us)
        for name, times in result["times"].items()
        if name not in ("cuda", "triton") and name.startswith(prefix) and (us := time_of(times, *GRAPH)) is not None
    ]
    return min(found, key=lambda pair: pair[1], default=None)
