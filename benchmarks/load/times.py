"""Times of streamed tokens: the first one's and those between two, and their percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np

Arrivals = Sequence[tuple[float, int]]  # moments at which tokens came, and how many did


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """The median and the 99th percentile, in milliseconds."""
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50": 1e3 * float(p50), "p99": 1e3 * float(p99)}


def further(arrivals: Arrivals) -> list[float]:
    """Seconds to each token after the first. Tokens that came together came at once: the second of them took 0."""
    moments = [moment for moment, tokens in arrivals for _ in range(tokens)]
    return [after - before for before, after in pairwise(moments)]


def medians(passes: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median over passes of each figure."""
    return {name: median(each[name] for each in passes) for name in passes[0]}
