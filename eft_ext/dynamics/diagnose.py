"""Is this run squeezing, and where did the probability go?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from eft_ext.dynamics.intervals import Interval, bootstrap
from eft_ext.dynamics.recording import Recording


@dataclass(frozen=True)
class Mass:
    """Mean change of probability per token along one type of response, in parts that sum to zero.

    Attributes:
        own: change of the response's own token.
        argmax: change of the most probable token where that is another one at both records.
        rest: change of all others, and of the argmax where it is the own token at one record alone.
        dethroned: share of tokens that are the argmax at the first record alone.
        enthroned: share of tokens that are the argmax at the last record alone.
    """

    own: Interval
    argmax: Interval
    rest: Interval
    dethroned: float
    enthroned: float


@dataclass(frozen=True)
class Squeezing:
    """Compares two records, averaged over probes, with 95 % bootstrap intervals over them.

    Attributes:
        first: step of the first record.
        last: step of the last record.
        chosen: Δ log π of the chosen responses.
        rejected: Δ log π of the rejected responses.
        argmax: Δ of the mean log p_max along the rejected responses, where the negative gradient acts.
        argmax_chosen: Δ of the mean log p_max along the chosen responses.
        chosen_mass: change of probability along the chosen responses.
        rejected_mass: change of probability along the rejected responses.
    """

    first: int
    last: int
    chosen: Interval
    rejected: Interval
    argmax: Interval
    argmax_chosen: Interval
    chosen_mass: Mass
    rejected_mass: Mass

    @property
    def diverged(self) -> bool:
        """True if a change is not finite."""
        changes = (self.chosen, self.rejected, self.argmax, self.argmax_chosen)
        return not all(math.isfinite(change.mean) for change in changes)

    @property
    def squeezed(self) -> bool | None:
        """True if chosen and rejected both fall while the argmax rises, each beyond its interval.

        None if training diverged.
        """
        if self.diverged:
            return None
        return self.chosen.sign < 0 and self.rejected.sign < 0 and self.argmax.sign > 0

    def __str__(self) -> str:
        if self.diverged:
            return f"steps {self.first} to {self.last}: training diverged, log π is not finite."
        word = "squeezing" if self.squeezed else "no squeezing"
        went = self.rejected_mass
        return (
            f"steps {self.first} to {self.last}: {word}. Δ log π of chosen {self.chosen}, of rejected {self.rejected}; "
            f"Δ log p_max per token along rejected {self.argmax}, along chosen {self.argmax_chosen}. "
            f"Probability per token along rejected: own token {went.own}, argmax {went.argmax}, rest {went.rest}; "
            f"the own token is no longer the argmax at {went.dethroned:.1%} of them, newly at {went.enthroned:.1%}, "
            "which count as rest."
        )


@np.errstate(invalid="ignore")  # where log π is infinite a change is NaN, which is told
def diagnose(
    recording: Recording, chosen: str = "chosen", rejected: str = "rejected", first: int = 0, last: int = -1
) -> Squeezing:
    """Compares two records of a run of preference tuning.

    Args:
        recording: with per-token columns.
        chosen, rejected: types of the probes.
        first, last: indices of the two records.

    Raises:
        ValueError: no such type or record, the same type twice; a recording with one record or without tokens.
    """
    if len(recording.steps) < 2:
        raise ValueError(f"recording: expected at least two records, got {len(recording.steps)}")

    for argument, name in (("chosen", chosen), ("rejected", rejected)):
        recording.rows_of(name, argument)
    if chosen == rejected:
        raise ValueError(f"rejected: expected another type than {chosen!r}, which is chosen")
    n = len(recording.steps)
    for argument, index in (("first", first), ("last", last)):
        if not -n <= index < n:
            raise ValueError(f"{argument}: expected a record from 0 to {n - 1}, got {index}")

    def change(response: str, statistic: str) -> Interval:
        curve = recording.curve(response, statistic)
        return bootstrap(curve[last] - curve[first])

    return Squeezing(
        first=int(recording.steps[first]),
        last=int(recording.steps[last]),
        chosen=change(chosen, "log_prob"),
        rejected=change(rejected, "log_prob"),
        argmax=change(rejected, "argmax_log_prob_mean"),
        argmax_chosen=change(chosen, "argmax_log_prob_mean"),
        chosen_mass=_mass(recording, chosen, first, last),
        rejected_mass=_mass(recording, rejected, first, last),
    )


def _mass(recording: Recording, response: str, first: int, last: int) -> Mass:
    columns = (recording.tokens(response, name) for name in ("log_prob", "argmax_log_prob", "argmax"))
    rows = []
    for columns_of_probe in zip(*columns, strict=True):
        log_prob, top, argmax = (x[[first, last]] for x in columns_of_probe)  # each [2, tokens]
        another = ~(log_prob >= top)  # the argmax is another token; where it is not, the two are one number
        another |= another[::-1] & (argmax[0] == argmax[1])  # nor is it in a tie with what is the argmax elsewhere
        own, most = np.diff(np.exp(log_prob), axis=0), np.diff(np.exp(top), axis=0)
        argmax_gain = np.where(another.all(0), most, 0.0)
        parts = (own, argmax_gain, -own - argmax_gain, another[1] & ~another[0], another[0] & ~another[1])
        rows.append([part.mean() for part in parts])
    found = np.array(rows).T  # [5, probes]
    dethroned, enthroned = map(float, found[3:].mean(1) + 0 * found[0].sum())  # NaN where training diverged
    return Mass(bootstrap(found[0]), bootstrap(found[1]), bootstrap(found[2]), dethroned, enthroned)
