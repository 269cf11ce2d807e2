"""Bootstrap intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval.

    Attributes:
        mean: of the values.
        low: percentile 2.5 of the resampled means.
        high: percentile 97.5 of the resampled means.
    """

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or −1 if the interval lies on one side of zero, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def __str__(self) -> str:
        return f"{self.mean:+.3g} ({self.low:+.3g} to {self.high:+.3g})"


def bootstrap(values: np.ndarray, draws: int = 2000, seed: int = 0) -> Interval:
    """Returns the mean and its bootstrap interval, percentiles 2.5 and 97.5 of the means of resampled values.

    Args:
        values: [n], or [groups, n]: then whole groups (seeds, say) are drawn first, and members within each.
        draws: the number of resampled means.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    grid = np.atleast_2d(np.asarray(values, dtype=np.float64))
    groups, n = grid.shape
    means = []
    together = max(1, (1 << 22) // grid.size)  # draws at a time, 32 MB of indices
    for done in range(0, draws, together):
        part = min(together, draws - done)
        group = rng.integers(groups, size=(part, groups, 1))
        means.append(grid[group, rng.integers(n, size=(part, groups, n))].mean((1, 2)))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(float(grid.mean()), float(low), float(high))
