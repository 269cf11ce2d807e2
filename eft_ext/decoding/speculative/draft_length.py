"""The number of tokens to draft: fixed, or the one that pays most by the acceptance and costs that were measured.

A round that drafts k tokens, each accepted with probability a, emits

    E(k) = 1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a)

tokens on average (Leviathan et al. 2023, equation 1) and takes T(k) seconds (`costs`). `Adaptive` drafts the k that
makes E(k) / T(k) largest; k = 0, an ordinary step, is among them. It keeps an account of what drafting has won and
lost, in ordinary steps, and drafts only what the account could pay if no draft were accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from threading import Lock
from typing import Any, Protocol

from eft_ext.decoding.speculative.costs import CHOICES, Costs, estimated

_LOSS = 0.015  # of a generation's time at most; a generation counts as one of `_SHORT` tokens at least
_SHORT = 64
_TRUST = 0.6  # ordinary steps that may be lost beyond, where all drafts of earlier rounds have stood
_BELIEF = 0.8, 2.0  # acceptance before any draft was checked, and the drafts that it counts for
_KEPT = 10.0  # drafts at most that an earlier process's acceptance counts for
_MEMORY = 0.98  # weight of past drafts, for each round
_AGAIN = 32  # rounds after which a neighbouring k is timed again
_PATIENCE = 8, 512  # ordinary steps before a draft is tried again: at first, and at most
_LOOK = 4  # ordinary steps between two looks at whether a trial can be afforded: a look takes 0.1 ms
_FIRST = 6  # ordinary steps that are timed before the first draft
_BETTER = 1.04  # gain for which another k is worth its capture


class DraftSchedule(Protocol):
    """Chooses how many tokens to draft, from the outcomes of past rounds."""

    def draft_length(self, under_way: int = 0) -> int: ...

    def observe(self, k: int, decided: int, accepted: int, seconds: float, rows: int = 1) -> None: ...


class Fixed:
    """Always k."""

    def __init__(self, k: int) -> None:
        self._k = k

    def draft_length(self, under_way: int = 0) -> int:
        return self._k

    def observe(self, k: int, decided: int, accepted: int, seconds: float, rows: int = 1) -> None:
        pass


def expected_tokens(k: int, acceptance: float) -> float:
    """E(k), tokens a round of k drafts emits on average."""
    return sum(acceptance**i for i in range(k + 1))


class Adaptive:
    """Drafts what pays most, and never loses more than a small share of a generation by trying.

    The choice depends on measured times: tokens that are sampled under a given seed may then differ from run to run
    (each run is exact); a fixed k is reproducible.

    Args:
        shape: T(k) for each of `CHOICES` before anything is measured, in any unit.
        kept: what `to_dict` of an earlier one returned.
    """

    def __init__(self, shape: Mapping[int, float] | None = None, kept: Mapping[str, Any] | None = None) -> None:
        shape = estimated(1.0, (3.0, 1.0)) if shape is None else shape
        belief, weight = _BELIEF
        self._patience = _PATIENCE[0]
        self._tried = 0  # the largest k whose time is known
        known = None
        if kept is not None:
            known = {int(k): seconds for k, seconds in kept["seconds"].items()}
            self._tried = max(known)
            belief, weight = kept["acceptance"], min(kept["decided"], _KEPT)
            self._patience = kept["patience"]
        self._known = kept is not None
        self._costs = Costs(shape, known)
        self._decided, self._accepted = weight, belief * weight
        self._k = self._waited = self._rounds = 0
        self._again: int | None = None
        self._lock = Lock()  # generations in several threads go on with one
        self.begin()

    @property
    def acceptance(self) -> float:
        return self._accepted / self._decided

    @property
    def ready(self) -> bool:
        """True when an ordinary step was timed, or had been by an earlier process."""
        return self._known

    def begin(self) -> None:
        """A generation begins: its own account, and every k will be compared or captured anew."""
        with self._lock:
            self._warm: set[int] = set()
            self._rows = 0  # of the whole batch, whose rounds are timed
            self._tokens, self._used = 0.0, Counter[int]()
            self._k = self._choose()

    def draft_length(self, under_way: int = 0) -> int:
        """Tokens to draft in the next round, as if all `under_way`, which have not been observed, came to nothing."""
        with self._lock:
            return self._k if not under_way or (under_way + 1) * self._costs.loss(self._k) <= self._account() else 0

    def observe(self, k: int, decided: int, accepted: int, seconds: float, rows: int = 1) -> None:
        """Learns from a round of k drafts of which `decided` were looked at and `accepted` stood, over all rows."""
        with self._lock:
            self._rows = max(self._rows, rows)
            if k in self._warm and rows == self._rows:  # the first round of its k warms up what later ones find warm
                self._costs.add(k, seconds)
            self._warm.add(k)
            self._tokens += 1 + accepted / rows
            self._used[k] += 1
            if k == 0 and self._k == 0:
                self._waited += 1
                early = self._waited < self._patience or self._waited % _LOOK
                if early and self._known and self._again is None:
                    return
            elif k:
                self._decided, self._accepted = self._decided * _MEMORY + decided, self._accepted * _MEMORY + accepted
                self._rounds += 1
                self._waited = 0
                if self._k_pays() == 0:  # a trial; one that succeeds is followed by another
                    failed = accepted < max(decided, 1)
                    self._patience = min(2 * self._patience, _PATIENCE[1]) if failed else _PATIENCE[0]
                    self._waited = 0 if failed else self._patience
            self._k = self._choose()

    def _account(self) -> float:
        """Ordinary steps that may still be lost in this generation: what it may take longer, and what it has won."""
        won = self._tokens - sum(n * (1 + self._costs.loss(k)) for k, n in self._used.items())
        trust = _TRUST * max(0.0, 2 * self.acceptance - 1) if self._decided >= _KEPT else 0.0
        return _LOSS * max(_SHORT, self._tokens) + trust + won

    def _k_pays(self) -> int:
        """The k with the most tokens a second, of all choices."""
        times, a = self._costs.relative(), self.acceptance
        gains, tokens, power = {0: 1.0}, 1.0, 1.0
        for k in range(1, CHOICES[-1] + 1):
            power *= a
            tokens += power
            if k in times:
                gains[k] = tokens / times[k]
        best = max(gains, key=gains.__getitem__)
        return self._k if gains.get(self._k, 0.0) * _BETTER > gains[best] else best

    def _choose(self) -> int:
        costs = self._costs
        if not self._known:
            if costs.samples(0) <= _FIRST:
                return 0  # ordinary steps first, against which all is weighed
            self._known = True
            self._waited = self._patience
        best = self._k_pays()
        if best == 0:
            return self._trial()
        self._patience = _PATIENCE[0]
        if self._rounds % _AGAIN == _AGAIN - 1 and self._again is None:
            self._again = self._stalest(best)
        if self._again is not None:
            if costs.age(self._again) > _AGAIN // 2 and self._affordable(self._again):
                return self._again
            self._again = None
        self._tried = max(self._tried, *costs.measured, 0)
        most = min(best, max(1, min(2 * self._tried, self._tried + 4)))
        return max(k for k in CHOICES if k <= most and self._affordable(k))

    def _trial(self) -> int:
        """1 where drafting does not seem to pay, it is time to look again, and it might pay after all."""
        times = self._costs.relative()
        stale = self._costs.age(1) > _PATIENCE[1]  # timed before it was traced, perhaps
        pays = stale or any(k + 1 > _BETTER * times[k] for k in CHOICES[1:])
        return int(pays and self._waited >= self._patience and self._affordable(1))

    def _affordable(self, k: int) -> bool:
        """True if the account bears a round of k drafts in vain, and one draft more to try again."""
        again = self._costs.loss(1) if k > 1 else 0.0
        return k == 0 or self._costs.loss(k) + again <= self._account()

    def _stalest(self, best: int) -> int:
        """Among the ordinary step and the timed neighbours of the best k, the one whose time is oldest."""
        place = CHOICES.index(best)
        near = {0, *CHOICES[place - 1 : place + 2]} - {best}
        return max((k for k in near if k == 0 or self._costs.samples(k)), key=self._costs.age)

    def to_dict(self) -> dict[str, Any]:
        """Plain data with which another process goes on."""
        with self._lock:
            return {
                "seconds": {str(k): seconds for k, seconds in self._costs.seconds().items()},
                "acceptance": round(self.acceptance, 4),
                "decided": round(self._decided, 1),
                "patience": self._patience,
            }
