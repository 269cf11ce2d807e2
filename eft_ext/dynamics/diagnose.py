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

    `own` went to the response's token itself, `argmax` to the most probable token where that is another one, `rest`
    to all others.
    """

    own: Interval
    argmax: Interval
    rest: Interval


@dataclass(frozen=True)
class Squeezing:
    """What happened between two records, averaged over probes, with 95 % bootstrap intervals over them.

    `chosen`, `rejected`: Δ log π of the responses. `argmax`: Δ of the mean log p_max along the rejected ones, where
    the negative gradient acts; `argmax_chosen` along the chosen ones. `chosen_mass`, `rejected_mass`: where
    probability went.
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
        """True where a change is not finite, so that nothing can be said of it."""
        changes = (self.chosen, self.rejected, self.argmax, self.argmax_chosen)
        return not all(math.isfinite(change.mean) for change in changes)

    @property
    def squeezed(self) -> bool | None:
        """The signature: chosen and rejected both fall while the argmax rises, each beyond its interval.

        None where training diverged.
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
            f"Probability per token along rejected: own token {went.own}, argmax {went.argmax}, rest {went.rest}."
        )


@np.errstate(invalid="ignore")  # where log π is infinite a change is NaN, which is told
def diagnose(
    recording: Recording, chosen: str = "chosen", rejected: str = "rejected", first: int = 0, last: int = -1
) -> Squeezing:
    """Compares two records of a run of preference tuning.

    Args:
        recording: with per-token columns.
        chosen, rejected: types of the probes.
        first, last: which records, by their index.

    Raises:
        ValueError: no such type; a recording made with per_token=False; one record alone.
    """
    if len(recording.steps) < 2:
        raise ValueError(f"recording: expected at least two records, got {len(recording.steps)}")

    for argument, name in (("chosen", chosen), ("rejected", rejected)):
        recording.rows_of(name, argument)

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
    own, argmax = [], []
    tokens = zip(recording.tokens(response), recording.tokens(response, "argmax_log_prob"), strict=True)
    for log_prob, top in tokens:  # each [steps, tokens]
        other = np.where(np.isclose(log_prob, top, atol=1e-5), 0.0, np.exp(top))
        own.append((np.exp(log_prob[last]) - np.exp(log_prob[first])).mean())
        argmax.append((other[last] - other[first]).mean())
    both = np.array([own, argmax])
    return Mass(bootstrap(both[0]), bootstrap(both[1]), bootstrap(-both.sum(0)))
