"""The number of tokens to draft: fixed, or the one that pays most by the measured acceptance and costs.

A round that drafts k tokens, each accepted with probability a, emits

    E(k) = 1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a)

tokens on average (Leviathan et al. 2023, equation 1) and takes T(k) = c0 + c1 k seconds: the verifying passes over
k + 1 tokens, and k + 1 passes of the draft model. `Adaptive` keeps estimates of a, c0 and c1 and drafts the k that
makes E(k) / T(k) largest; k = 0, an ordinary step, is among them.
"""

from __future__ import annotations

from typing import Protocol

CHOICES = (0, 1, 2, 4, 6, 8, 12, 16)  # few, since every k is traced or captured for itself
_FRESH = 32  # rounds after which a neighbouring k is timed again
_MEMORY = 0.95  # weight of the past, for each row and round


class DraftSchedule(Protocol):
    """Chooses how many tokens to draft, from the outcomes of past rounds."""

    def draft_length(self) -> int: ...

    def observe(self, k: int, decided: int, accepted: int, seconds: float) -> None: ...


class Fixed:
    """Always k."""

    def __init__(self, k: int) -> None:
        self._k = k

    def draft_length(self) -> int:
        return self._k

    def observe(self, k: int, decided: int, accepted: int, seconds: float) -> None:
        pass


def expected_tokens(k: int, acceptance: float) -> float:
    """E(k), tokens a round of k drafts emits on average."""
    return sum(acceptance**i for i in range(k + 1))


class Adaptive:
    """Drafts what pays most; begins with 4 and 1, so that both costs are known.

    The choice depends on measured times: tokens that are sampled under a given seed may then differ from run to run
    (each run is exact); a fixed k is reproducible.

    Args:
        most: largest k that is considered.
    """

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._decided, self._accepted = 4.0, 3.0  # a weak belief, soon outweighed
        self._seconds: dict[int, float] = {}  # by k, of recent rounds
        self._rounds = 0
        self._k = min(4, most)

    @property
    def acceptance(self) -> float:
        return self._accepted / self._decided

    def draft_length(self) -> int:
        return self._k

    def observe(self, k: int, decided: int, accepted: int, seconds: float) -> None:
        """Learns from a round of k drafts of which `decided` were looked at and `accepted` stood, over all rows."""
        self._rounds += 1
        fade = _MEMORY
        self._decided, self._accepted = self._decided * fade + decided, self._accepted * fade + accepted
        # The first round of its k warms up what later ones find warm; outliers count little.
        before = self._seconds.get(k)
        self._seconds[k] = seconds if before is None else before + 0.3 * (min(seconds, 2 * before) - before)
        self._k = self._choose()

    def _choose(self) -> int:
        if self._rounds < 4:
            return (4, 1)[self._rounds % 2] if self._most > 1 else self._rounds % 2
        fixed, each = self.costs()
        choices = [k for k in CHOICES if k < self._most] + [self._most]
        best = max(choices, key=lambda k: expected_tokens(k, self.acceptance) / (fixed + each * k))
        if self._rounds % _FRESH == 0:
            place = choices.index(best)
            return choices[place - 1] if best == choices[-1] else choices[place + 1]
        return best

    def costs(self) -> tuple[float, float]:
        """c0 and c1 in seconds: the line of least squares through the times by k."""
        ks, times = zip(*list(self._seconds.items()), strict=True)
        n, mean_k, mean_t = len(ks), sum(ks) / len(ks), sum(times) / len(times)
        spread = sum((k - mean_k) ** 2 for k in ks)
        each = sum((k - mean_k) * (t - mean_t) for k, t in zip(ks, times, strict=True)) / spread if n > 1 else 0.0
        each = max(each, 1e-3 * mean_t)  # noise must not make drafting free
        return max(mean_t - each * mean_k, 1e-3 * mean_t), each
