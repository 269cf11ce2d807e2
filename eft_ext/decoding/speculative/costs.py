"""Seconds of a round by its number of drafts: estimated from the models' sizes, and then measured.

A round of k drafts is k + 1 passes of the draft model over one token, and a pass of each other model over k + 1. An
estimate gives the shape of T(k) alone: what is measured gives its scale, and bends it where the two differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median_low

CHOICES = (0, 1, 2, 4, 6, 8, 12, 16)  # few, since every k is captured for itself
_RECENT = 15  # times of which the median counts


def estimated(draft: float, others: Sequence[float], rows: int = 1, growth: float = 0.1) -> dict[int, float]:
    """T(k) by k, in the unit of `draft`.

    Args:
        draft, others: a pass of each model over one token.
        rows: of the batch, all read in one pass.
        growth: share of a pass that each further token adds to it.
    """

    def tokens(n: int) -> float:
        return 1 + growth * (n - 1)

    return {k: (k + 1) * draft * tokens(rows) + sum(others) * tokens((k + 1) * rows) for k in CHOICES}


class Costs:
    """T(k) of one trio on one machine.

    Args:
        shape: T(k) for each of `CHOICES`, in any unit.
        known: T(k) of some k from an earlier process, to which the shape is bent.
    """

    def __init__(self, shape: Mapping[int, float], known: Mapping[int, float] | None = None) -> None:
        self._shape = dict(shape)
        self._known = set(known or ())
        if known:
            self._shape = self._bent(known)
        self._times: dict[int, deque[float]] = {}
        self._stamps: dict[int, int] = {}
        self._count = 0
        self._table: dict[int, float] | None = None
        self._ordinary = 1.0

    def add(self, k: int, seconds: float) -> None:
        """A round of k drafts took so long. Others than `CHOICES` are not kept.

        The first time stands beside the one that was expected, so that a single slow round does not count.
        """
        if k in self._shape and seconds > 0:
            if k not in self._times:
                expected = self.relative()[k] * self._ordinary if self._times else seconds
                self._times[k] = deque([expected], maxlen=_RECENT)
            self._times[k].append(seconds)
            self._count += 1
            self._stamps[k] = self._count
            self._table = None

    def samples(self, k: int) -> int:
        """Times of k that count, the expected one among them."""
        return len(self._times.get(k, ()))

    def age(self, k: int) -> int:
        """Times of other k since k was timed."""
        return self._count - self._stamps.get(k, 0)

    @property
    def measured(self) -> dict[int, float]:
        """Median seconds by k, of those k that were timed here."""
        return {k: median_low(times) for k, times in sorted(self._times.items())}

    def relative(self) -> dict[int, float]:
        """T(k) / T(0) by k."""
        if self._table is None:
            whole = self._bent(self.measured)
            self._ordinary = whole[0]
            self._table = {k: seconds / whole[0] for k, seconds in whole.items()}
        return self._table

    def seconds(self) -> dict[int, float]:
        """T(k) of those k that were timed, here or earlier, in seconds."""
        times = self.relative()
        return {k: times[k] * self._ordinary for k in sorted(self._known.union(self._times))}

    def loss(self, k: int) -> float:
        """Ordinary steps that a round of k drafts costs where none is accepted.

        At least half of what the shape says: noise must not make drafting free.
        """
        k = next((choice for choice in CHOICES if choice >= k), CHOICES[-1])
        return max(self.relative()[k] - 1, 0.5 * (self._shape[k] / self._shape[0] - 1))

    def _bent(self, timed: Mapping[int, float]) -> dict[int, float]:
        """T(k) for each of `CHOICES`, the shape bent to the timed ones.

        Between timed ones it departs from the shape as they do. Beyond them it grows as from 0 to the largest of them;
        the smaller that is, the more it grows as the shape does.
        """
        factors = {k: seconds / self._shape[k] for k, seconds in timed.items()}
        whole = {k: self._shape[k] * _between(factors, k) for k in self._shape}
        last = max(timed, default=0)
        if last:
            share, each = last / (last + 2), max(0.0, whole[last] - whole[0]) / last
            for k in self._shape:
                if k > last:
                    whole[k] += share * (each * (k - last) + whole[last] - whole[k])
        return whole


def _between(values: Mapping[int, float], k: int) -> float:
    """The line between the neighbours of k; the outermost value beyond them, and 1 where there are none."""
    if not values or k in values:
        return values.get(k, 1.0)
    below, above = max((n for n in values if n < k), default=None), min((n for n in values if n > k), default=None)
    if below is None or above is None:
        nearest = above if below is None else below
        assert nearest is not None
        return values[nearest]
    return values[below] + (values[above] - values[below]) * (k - below) / (above - below)
