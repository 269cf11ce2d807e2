"""Measures what the demonstration must show: facts, format, divergence from the oracle, speed.

The models answer held-out questions through any callable that turns prompts into answers. The divergence is
taken at every position of the oracle's own answers, between whole next-token distributions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from eft_ext.demo.grade import Grader, Proportion
from eft_ext.demo.trio import EFT, LARGE, ORACLE, TUNED, Answerer, Trio
from eft_ext.demo.world import Question


@dataclass(frozen=True)
class ModelFigures:
    """One model's figures. `kl` is KL(oracle || model) in nats per token, `speed` is in tokens per second."""

    model: str
    facts: Proportion
    format: Proportion
    speed: float
    kl: float


@dataclass(frozen=True)
class Claim:
    """`possible`: figures for which it holds lie within the 95 % intervals, so that it is not refuted."""

    text: str
    holds: bool
    possible: bool = False

    @property
    def word(self) -> str:
        """holds, FAILS, or open: too few questions to tell."""
        return "holds" if self.holds else "open" if self.possible else "FAILS"


OPEN = "too few questions to decide every claim: see those that are open"


def ask_all(
    answerer: Answerer,
    questions: Sequence[Question],
    tick: Callable[[int], object] = lambda answered: None,
    batch: int = 125,
) -> tuple[list[str], float]:
    """All the answers, and the seconds they took. `tick` is called with the number answered, after every batch."""
    answers: list[str] = []
    start = time.perf_counter()
    for i in range(0, len(questions), batch):
        part = answerer([q.prompt for q in questions[i : i + batch]])
        answers += part
        tick(len(part))
    return answers, time.perf_counter() - start


def teacher_forced(
    prompts: Sequence[str], answers: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[Tensor, Tensor]:
    """Prompt, answer and end token of each row: ids [n, length], and which positions predict the answer."""
    heads = tokenizer(list(prompts)).input_ids
    tails = tokenizer(list(answers), add_special_tokens=False).input_ids
    width = max(len(h) + len(t) + 1 for h, t in zip(heads, tails, strict=True))
    ids = torch.full((len(heads), width), tokenizer.eos_token_id)
    predicts = torch.zeros_like(ids, dtype=torch.bool)
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
        predicts[row, len(head) - 1 : len(head) + len(tail)] = True
    return ids, predicts


@torch.inference_mode()
def divergences(
    trio: Trio,
    questions: Sequence[Question],
    answers: Sequence[str],
    beta: float = 1.0,
    batch: int = 125,
) -> dict[str, float]:
    """KL(oracle || model) in nats, averaged over the tokens of the oracle's `answers` and their end."""
    totals = dict.fromkeys((LARGE, TUNED, EFT, ORACLE), 0.0)
    tokens = 0
    for i in range(0, len(questions), batch):
        prompts = [q.prompt for q in questions[i : i + batch]]
        ids, predicts = teacher_forced(prompts, answers[i : i + batch], trio.tokenizer)
        models = (trio.large, trio.tuned, trio.base, trio.oracle)
        large, tuned, base, oracle = (m(ids).logits[predicts].double() for m in models)  # [tokens, vocab]
        mixed = large + beta * (tuned - base)
        truth = oracle.log_softmax(-1)
        for name, logits in ((LARGE, large), (TUNED, tuned), (EFT, mixed)):
            totals[name] += float((truth.exp() * (truth - logits.log_softmax(-1))).sum())
        tokens += len(truth)
    return {name: total / tokens for name, total in totals.items()}


def tabulate(
    answers: dict[str, list[str]],
    seconds: dict[str, float],
    kl: dict[str, float],
    questions: Sequence[Question],
    grader: Grader,
    tokenizer: PreTrainedTokenizerBase,
) -> list[ModelFigures]:
    """The final table, one row per model, in the order of `answers`."""
    rows = []
    for model, texts in answers.items():
        grades = [grader(q, a) for q, a in zip(questions, texts, strict=True)]
        ids = tokenizer(texts, add_special_tokens=False).input_ids
        tokens = sum(len(i) + 1 for i in ids)  # + 1: the end token
        facts = Proportion(sum(g.fact for g in grades), len(grades))
        kept = Proportion(sum(g.format for g in grades), len(grades))
        rows.append(ModelFigures(model, facts, kept, tokens / seconds[model], kl[model]))
    return rows


def claims(rows: Sequence[ModelFigures]) -> list[Claim]:
    """The claims that the table must show: the acceptance test of the models. The bounds are never loosened for them.

    The divergence has no interval here: its claim is never open.
    """
    row = {r.model: r for r in rows}
    large, tuned, eft, oracle = row[LARGE], row[TUNED], row[EFT], row[ORACLE]
    points = 100.0

    def known(r: ModelFigures) -> bool:
        return 80 <= points * r.facts.value <= 97

    def may_know(r: ModelFigures) -> bool:
        low, high = r.facts.interval
        return points * high >= 80 and points * low <= 97

    def may_be_near(a: Proportion, b: Proportion) -> bool:
        return points * max(a.interval[0] - b.interval[1], b.interval[0] - a.interval[1]) <= 5

    facts_gap = points * abs(oracle.facts.value - eft.facts.value)
    format_gap = points * abs(oracle.format.value - eft.format.value)
    facts_gain = points * (eft.facts.value - tuned.facts.value)
    format_gain = points * (eft.format.value - large.format.value)
    nearest = min(large.kl, tuned.kl)
    return [
        Claim(
            "large and oracle know 80 to 97 % of the facts",
            known(large) and known(oracle),
            may_know(large) and may_know(oracle),
        ),
        Claim(
            f"facts: EFT within 5 points of the oracle ({facts_gap:.1f})",
            facts_gap <= 5,
            may_be_near(oracle.facts, eft.facts),
        ),
        Claim(
            f"format: EFT within 5 points of the oracle ({format_gap:.1f})",
            format_gap <= 5,
            may_be_near(oracle.format, eft.format),
        ),
        Claim(
            f"facts: EFT at least 40 points above small tuned ({facts_gain:.1f})",
            facts_gain >= 40,
            points * eft.facts.most_above(tuned.facts) >= 40,
        ),
        Claim(
            f"format: EFT at least 80 points above large ({format_gain:.1f})",
            format_gain >= 80,
            points * eft.format.most_above(large.format) >= 80,
        ),
        Claim(
            f"KL(oracle || EFT) at most a quarter of any other model's ({eft.kl / nearest:.3f} of the nearest)",
            eft.kl <= 0.25 * nearest,
        ),
    ]
