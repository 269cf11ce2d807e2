"""Speculative decoding behind `generate(speculate=...)`: criteria, streaming and statistics around engine and loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput

from eft_ext.decoding.requests import Prompt
from eft_ext.decoding.speculative.draft_length import CHOICES, Adaptive, Fixed, Schedule
from eft_ext.decoding.speculative.sampler import Sampler
from eft_ext.decoding.speculative.speculate import speculate
from eft_ext.decoding.speculative.token_source import Statistics
from eft_ext.decoding.static_cache.layers import SLACK
from eft_ext.hf.generation.mixture import Mixture
from eft_ext.hf.generation.processors import Plan
from eft_ext.hf.generation.rows import budget_of, ends_of, stream_rows
from eft_ext.hf.inputs.context import Context
from eft_ext.hf.members import Member
from eft_ext.hf.runners.checks import checked
from eft_ext.hf.runners.distributed import sharded
from eft_ext.hf.runners.engine_pool import Drafts, EnginePool, feeders
from eft_ext.hf.runners.tiers import ASKED, DecodePlan, ahead

_SCHEDULES: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Adaptive]] = WeakKeyDictionary()
MOST = SLACK - 1  # drafts a round: one more token is read, and a sliding window's ring has room for this many


@dataclass
class SpeculatedOutput(GenerateDecoderOnlyOutput):
    """The output of `generate(speculate=..., return_dict_in_generate=True)` beside the sequences.

    Attributes:
        marks: how each new token came about, int8 [rows, new]: values of `eft_ext.decoding.TokenSource`, -1 behind a
            row's end.
        speculation: rounds, acceptance, tokens per round, and how many tokens were drafted in each.
    """

    marks: Tensor | None = None
    speculation: Statistics | None = None


def check(speculate: Any) -> int | str:
    """0 for none, a number of drafts, or "auto". Raises ValueError for anything else."""
    if speculate is None or speculate is False:
        return 0
    if speculate == "auto":
        return "auto"
    if isinstance(speculate, bool) or not isinstance(speculate, int) or not 0 <= speculate <= MOST:
        raise ValueError(f"speculate: expected 'auto' or a number of drafts from 0 to {MOST}, got {speculate!r}")
    return speculate


def why_not(members: Sequence[Member], mixture: Mixture, work: Plan, how: DecodePlan, records: bool) -> str:
    """Why a generation cannot be speculated; empty where it can."""
    if how.tier == 0:
        return "tier 0 was asked for" if how.because == ASKED else how.because
    if work.processors:
        return f"{type(work.processors[0]).__name__} looks at the tokens before each step"
    if records:
        return "scores of every step are asked for"
    return "a model is sharded over processes" if sharded(members) else ""


def in_engine(how: DecodePlan) -> bool:
    """True if rounds are steps of the engine; otherwise Python looks at each before the next."""
    return not how.loop and not (how.tier == 1 and how.because == ASKED)


def planned(members: Sequence[Member], mixture: Mixture, how: DecodePlan, drafts: int | str, why: str) -> DecodePlan:
    """The plan, with what it says of drafts. `why`: of `why_not`."""
    if not drafts:
        return how
    if why:
        return replace(how, speculation=f"no drafts, since {why}")
    name = members[draft_of(members, mixture.method.last_token_only)].name
    count = "as many drafts as pay" if drafts == "auto" else f"{drafts} draft{'s' * (drafts != 1)}"
    why = f"tier {how.tier} was asked for" if how.because == ASKED else how.because
    kind = "each a step of the engine" if in_engine(how) else f"with Python between them, since {why}"
    return replace(how, speculation=f"rounds of {count} by {name}, {kind}")


def sampler_of(members: Sequence[Member], mixture: Mixture, options: dict[str, Any]) -> Sampler:
    """The loop's sampler for a mixture, `per_row` and on the logits' device."""
    draft = draft_of(members, mixture.method.last_token_only)
    if mixture.needs_python:
        return Sampler(mixture.of_rows(), dict(options), draft)
    conservative = mixture.conservative
    own = dict(options)
    if conservative is not None:
        own["conservative_top_p"] = conservative.top_p
        own["conservative_set"], own["conservative_outside"] = conservative.set, conservative.outside
    return Sampler(list(mixture.weights), own, draft)


def draft_of(members: Sequence[Member], last_token_only: Sequence[str] = ()) -> int:
    """Who proposes: the small fine-tuned model, in second place, or the first one where that is smaller, or where the
    second reads no prompt."""
    if len(members) == 1 or members[1].name in last_token_only:
        return 0
    sizes = [sum(p.numel() for p in member.model.parameters()) for member in members[:2]]
    return 0 if sizes[0] < sizes[1] else 1


def decode_speculated(
    members: Sequence[Member],
    prompts: Sequence[Prompt],
    mixture: Mixture,
    options: dict[str, Any],
    seeds: Tensor,
    criteria: StoppingCriteriaList,
    *,
    ids: Tensor,
    drafts: int | str,
    how: DecodePlan,
    pad: int,
    emit: Callable[[Tensor], Any] | None = None,
    engines: EnginePool | None = None,
    context: Context,
) -> tuple[Tensor, Tensor, Statistics]:
    """New tokens and their marks, both [rows, new] on the CPU, and statistics; arguments as for `stream_rows`.

    Args:
        ids: the first model's prompts as the caller gave them, which criteria see.
        drafts: tokens drafted in a round, or "auto".
        how: says whether rounds are steps of the engine.
        emit: receives tokens [rows] as soon as every row that goes on has one.

    Raises:
        RuntimeError: a row's logits hold NaN or +inf, or every token is excluded; names the row.
    """
    rows, statistics, budget = ids.shape[0], Statistics(), budget_of(criteria, ids.shape[1])
    texts = Texts(rows, pad, emit)
    schedule = _adaptive(members, rows) if drafts == "auto" else Fixed(int(drafts))
    if in_engine(how):
        most = max(CHOICES) if drafts == "auto" else int(drafts)
        wanted = Drafts(schedule, draft_of(members, mixture.method.last_token_only), most)
        lag = ahead(prompts[0][0].device, how)
        for news in stream_rows(
            members,
            prompts,
            mixture,
            options,
            seeds,
            criteria,
            budget=budget,
            ahead=lag,
            engines=engines,
            drafts=wanted,
            statistics=statistics,
            context=context,
        ):
            for job, token, last, mark in news:
                texts.add(job, [token], [mark], last)
            texts.emit()
        texts.emit(ended=True)
        return (*texts.whole(), statistics)
    prompts = [checked(member, *prompt) for member, prompt in zip(members, prompts, strict=True)]
    device = members[0].output_device
    tables = [limit for member in members if (limit := member.learned_positions()) is not None]
    limits = [c.initial_timestamp + c.max_time for c in criteria if isinstance(c, MaxTimeCriteria)]
    for found in speculate(
        feeders(members, prompts, budget + MOST),
        prompts,
        sampler_of(members, mixture.to(device), options),
        schedule,
        seeds=seeds,
        budgets=[budget] * rows,
        ends=ends_of(criteria),
        cut=_cut(criteria, ids, texts.tokens),
        room=min(tables, default=None),
        statistics=statistics,
    ):
        for row in zip(found.rows, found.tokens, found.marks, found.ended, strict=True):
            texts.add(*row)
            context.reached(row[0], len(texts.tokens[row[0]]))
        texts.emit()
        if limits and time.time() > min(limits):
            break
    texts.emit(ended=True)
    return (*texts.whole(), statistics)


class Texts:
    """The tokens of a batch's rows, which advance by different amounts."""

    def __init__(self, rows: int, pad: int, emit: Callable[[Tensor], Any] | None) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self._marks: list[list[int]] = [[] for _ in range(rows)]
        self._going, self._pad, self._emit = [True] * rows, pad, emit
        self._said = 0  # columns that the streamer has

    def add(self, row: int, tokens: Sequence[int], marks: Sequence[int], ended: bool) -> None:
        self.tokens[row] += tokens
        self._marks[row] += marks
        self._going[row] = not ended

    def emit(self, *, ended: bool = False) -> None:
        """The columns in which every row that goes on has a token; all of them where the time has ended."""
        if self._emit is None:
            return
        going = [len(t) for t, on in zip(self.tokens, self._going, strict=True) if on and not ended]
        ready = min(going, default=max(map(len, self.tokens)))
        while self._said < ready:
            column = [t[self._said] if self._said < len(t) else self._pad for t in self.tokens]
            self._emit(torch.tensor(column, device="cpu"))
            self._said += 1

    def whole(self) -> tuple[Tensor, Tensor]:
        """Tokens and marks [rows, new], -1 the mark behind a row's end."""
        longest = max(map(len, self.tokens))
        ids = torch.tensor([t + [self._pad] * (longest - len(t)) for t in self.tokens], device="cpu")
        kinds = [m + [-1] * (longest - len(m)) for m in self._marks]
        return ids, torch.tensor(kinds, dtype=torch.int8, device="cpu")


def _adaptive(members: Sequence[Member], rows: int) -> Schedule:
    """The schedule of these models and a batch of this size, with what earlier generations have measured."""
    known = _SCHEDULES.setdefault(members[0].model, {})
    return known.setdefault((rows, *(id(member.model) for member in members)), Adaptive())


def _cut(
    criteria: StoppingCriteriaList, ids: Tensor, tokens: Sequence[list[int]]
) -> Callable[[int, list[int]], int | None] | None:
    """Asks the criteria that the loop does not know by itself, token by token, as transformers would."""
    known = (EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria)
    others = StoppingCriteriaList(c for c in criteria if type(c) not in known)
    if not others:
        return None

    def answer(row: int, said: Tensor) -> bool:
        found = others(said, None)  # of one row, or of all where a criterion keeps something for each
        return bool(found[row if len(found) > 1 else 0])

    def cut(row: int, new: list[int]) -> int | None:
        whole = torch.cat([ids[row], ids.new_tensor(tokens[row] + new)])[None]
        start = whole.shape[1] - len(new)
        stops = (n for n in range(1, len(new) + 1) if answer(row, whole[:, : start + n]))
        return next(stops, None)

    return cut
