"""The trade-off between two behaviours, measured: what `eft demo --interpolate` shows.

Two small models were fine-tuned from one base, to answer politely and to go on talking. Their behaviours are mixed on
the large model (Mitchell et al. 2023, test-time reward interpolation) in shares λ and 1 − λ, and for comparison on the
small base itself, where nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from transformers import PreTrainedModel

from eft_ext.demo.evaluate import Claim
from eft_ext.demo.grade import Grader, Proportion
from eft_ext.demo.text import TALKATIVE, furthers
from eft_ext.demo.trio import LONGEST, Mode, Trio
from eft_ext.demo.world import Question
from eft_ext.hf import EmulatedModel
from eft_ext.methods import Interpolate

SHARES = tuple(i / 10 for i in range(11))
LARGE, SMALL = "large", "small base"  # what the behaviours are put on


@dataclass(frozen=True)
class Point:
    """One share λ of politeness: how many answers have which behaviour, and how many facts are right.

    `further` is over the talkative answers: those whose further fact is true as well; None where there are none.
    """

    share: float
    polite: Proportion
    talkative: Proportion
    facts: Proportion
    further: Proportion | None


@dataclass(frozen=True)
class Curve:
    """The points of one model that the behaviours are put on, by rising λ."""

    on: str
    points: list[Point]

    def at(self, share: float) -> Point:
        return next(point for point in self.points if point.share == share)


def emulated(trio: Trio, talkative: PreTrainedModel, on: str) -> EmulatedModel:
    """Both behaviours on the large model or on the small base; the share is the call's."""
    tuned = {"polite": trio.tuned, "talkative": talkative}
    return EmulatedModel(trio.large if on == LARGE else trio.base, tuned, trio.base, trio.tokenizer)


@torch.inference_mode()
def answer(
    model: EmulatedModel, questions: Sequence[Question], shares: Sequence[float], mode: Mode, seed: int = 0
) -> list[list[str]]:
    """The answers to each question at each share, in one batch: every row has its own λ."""
    prompts = [question.prompt for question in questions for _ in shares]
    rows = torch.tensor([*shares] * len(questions))
    method = Interpolate.between("polite", "talkative", rows)
    texts = model.generate_text(prompts, method=method, seed=seed, max_new_tokens=LONGEST, **mode.options)
    return [texts[i : i + len(shares)] for i in range(0, len(texts), len(shares))]


def measure(
    trio: Trio,
    talkative: PreTrainedModel,
    on: str,
    questions: Sequence[Question],
    mode: Mode,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    tick: Callable[[int], object] = lambda answered: None,
    batch: int = 12,
) -> Curve:
    """Asks everything at every share and grades the answers. `tick` is called with the number of questions answered."""
    model, grader = emulated(trio, talkative, on), Grader(trio.world)
    counts = torch.zeros(len(shares), 4, dtype=torch.long)  # polite, talkative, facts, further facts
    for i in range(0, len(questions), batch):
        part = questions[i : i + batch]
        for question, texts in zip(part, answer(model, part, shares, mode, seed + i), strict=True):
            true = furthers(question.fact, trio.world.facts_of[question.fact.entity.name])
            for place, text in enumerate(texts):
                grade, more = grader(question, text), TALKATIVE.fullmatch(text)
                further = more is not None and more["further"] in true
                counts[place] += torch.tensor([grade.format, more is not None, grade.fact, further])
        tick(len(part))
    n = len(questions)
    return Curve(
        on,
        [
            Point(
                share,
                Proportion(polite, n),
                Proportion(more, n),
                Proportion(facts, n),
                Proportion(further, more) if more else None,
            )
            for share, (polite, more, facts, further) in zip(shares, counts.tolist(), strict=True)
        ],
    )


def claims(curves: Sequence[Curve]) -> list[Claim]:
    """The claims that the curves must show; the bounds are never loosened for the models.

    The second claim speaks of the intervals already: it is never open.
    """
    large, small = (next(curve for curve in curves if curve.on == on) for on in (LARGE, SMALL))
    first, last = large.points[0], large.points[-1]
    ends = min(first.talkative.value, last.polite.value)
    rising = all(a.polite.interval[0] <= b.polite.interval[1] for a, b in pairwise(large.points))
    mixed = [p.share for p in large.points if min(p.polite.value, p.talkative.value) >= 0.1]
    facts = [point.facts.value for point in large.points]
    gain = min(a.facts.value - b.facts.value for a, b in zip(large.points, small.points, strict=True))
    others = [Proportion(p.facts.n - p.polite.k - p.talkative.k, p.facts.n) for p in large.points]
    neither = max(p.value for p in others)
    may_mix = [p for p in large.points if min(p.polite.interval[1], p.talkative.interval[1]) >= 0.1]
    lows, highs = zip(*(p.facts.interval for p in large.points), strict=True)
    may_gain = min(a.facts.most_above(b.facts) for a, b in zip(large.points, small.points, strict=True))
    return [
        Claim(
            f"each behaviour at its end of the curve: at least 95 % ({100 * ends:.1f})",
            ends >= 0.95,
            min(first.talkative.interval[1], last.polite.interval[1]) >= 0.95,
        ),
        Claim("politeness rises with its share (within the intervals)", rising),
        Claim(
            f"both behaviours in at least 10 % of the answers at three shares or more ({len(mixed)})",
            len(mixed) >= 3,
            len(may_mix) >= 3,
        ),
        Claim(
            f"answers with neither: at most 15 % at any share ({100 * neither:.1f})",
            neither <= 0.15,
            max(p.interval[0] for p in others) <= 0.15,
        ),
        Claim(
            f"facts right change by at most 5 points along the curve ({100 * (max(facts) - min(facts)):.1f})",
            max(facts) - min(facts) <= 0.05,
            max(lows) - min(highs) <= 0.05,
        ),
        Claim(
            f"facts: at least 40 points above the small models at every share ({100 * gain:.1f})",
            gain >= 0.4,
            may_gain >= 0.4,
        ),
    ]
