"""Speculative decoding behind `generate(speculate=...)`: criteria, streaming and statistics around the loop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria, StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput

from eft_ext.decoding.cache import SLACK
from eft_ext.decoding.schedule import Adaptive, Fixed, Schedule
from eft_ext.decoding.speculate import Mark, Sampler, Statistics, speculate
from eft_ext.decoding.support import learned_positions
from eft_ext.hf.distributed import sharded
from eft_ext.hf.members import Member
from eft_ext.hf.mixture import Mixture
from eft_ext.hf.processors import Plan
from eft_ext.hf.rows import Prompt, budget_of, ends_of, feeders
from eft_ext.hf.runner import checked
from eft_ext.hf.tiers import DecodePlan

_SCHEDULES: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Adaptive]] = WeakKeyDictionary()
MOST = SLACK - 1  # drafts a round: one more token is read, and a sliding window's ring has room for this many


@dataclass
class SpeculatedOutput(GenerateDecoderOnlyOutput):
    """What `generate(speculate=..., return_dict_in_generate=True)` returns beside the sequences.

    Attributes:
        marks: how each new token came about, int8 [rows, new]: the values of `eft_ext.decoding.Mark`, -1 behind a
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


def fits(members: Sequence[Member], mixture: Mixture, work: Plan, how: DecodePlan, records: bool) -> bool:
    """Whether a generation can be speculated; says why where it cannot."""
    if how.tier == 0:
        why = how.because
    elif work.processors:
        why = f"{type(work.processors[0]).__name__} looks at the tokens before each step"
    elif records:
        why = "scores of every step are asked for"
    elif mixture.needs_python:
        why = mixture.needs_python
    elif sharded(members):
        why = "a model is sharded over processes"
    else:
        return True
    warnings.warn(f"speculate: decoding without drafts, since {why}", stacklevel=2)
    return False


def sampler_of(members: Sequence[Member], mixture: Mixture, options: dict[str, Any]) -> Sampler:
    """How the loop draws from a mixture, `per_row` and on the logits' device."""
    conservative = mixture.conservative
    own = dict(options)
    if conservative is not None:
        own["conservative_top_p"] = conservative.top_p
        own["conservative_set"], own["conservative_outside"] = conservative.set, conservative.outside
    return Sampler(list(mixture.weights), own, draft=draft_of(members, mixture.method.alone))


def draft_of(members: Sequence[Member], alone: Sequence[str] = ()) -> int:
    """Who proposes: the small fine-tuned model, in second place, or the first one where that is smaller, or where the
    second reads no prompt."""
    if len(members) == 1 or members[1].name in alone:
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
    drafts: int | str,
    pad: int,
    emit: Callable[[Tensor], Any] | None = None,
) -> tuple[Tensor, Tensor, Statistics]:
    """New tokens and their marks, both [rows, new] on the CPU, and statistics; arguments as for `decode_rows`.

    Args:
        drafts: tokens drafted in a round, or "auto".

    Raises:
        RuntimeError: a row's logits hold NaN or +inf, or every token is excluded; names the row.
    """
    prompts = [checked(member, *prompt) for member, prompt in zip(members, prompts, strict=True)]
    rows, budget = prompts[0][0].shape[0], budget_of(criteria, prompts[0][0].shape[1])
    device = members[0].model.get_output_embeddings().weight.device
    tables = [limit for member in members if (limit := learned_positions(member.model)) is not None]
    limits = [c.initial_timestamp + c.max_time for c in criteria if isinstance(c, MaxTimeCriteria)]
    schedule = _adaptive(members, rows) if drafts == "auto" else Fixed(int(drafts))
    statistics = Statistics()
    tokens: list[list[int]] = [[] for _ in range(rows)]
    marks: list[list[Mark]] = [[] for _ in range(rows)]
    going = [True] * rows
    said = 0  # columns that the streamer has
    for found in speculate(
        feeders(members, prompts, budget + MOST),
        prompts,
        sampler_of(members, mixture.to(device), options),
        schedule,
        seeds=seeds,
        budgets=[budget] * rows,
        ends=ends_of(criteria),
        cut=_cut(criteria, prompts[0][0], tokens),
        room=min(tables, default=None),
        statistics=statistics,
    ):
        for row, new, how, ended in zip(found.rows, found.tokens, found.marks, found.ended, strict=True):
            tokens[row] += new
            marks[row] += how
            going[row] = not ended
        ready = min((len(t) for t, on in zip(tokens, going, strict=True) if on), default=max(map(len, tokens)))
        while emit is not None and said < ready:
            emit(torch.tensor([t[said] if said < len(t) else pad for t in tokens], device="cpu"))
            said += 1
        if limits and time.time() > min(limits):
            break
    longest = max(map(len, tokens))
    ids = torch.tensor([t + [pad] * (longest - len(t)) for t in tokens], device="cpu")
    kinds = torch.tensor([m + [-1] * (longest - len(m)) for m in marks], dtype=torch.int8, device="cpu")
    return ids, kinds, statistics


def _adaptive(members: Sequence[Member], rows: int) -> Schedule:
    """What is known of these models and a batch of this size from earlier generations goes on being used."""
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

    def cut(row: int, new: list[int]) -> int | None:
        whole = torch.cat([ids[row], ids.new_tensor(tokens[row] + new)])[None]
        start = whole.shape[1] - len(new)
        stops = (n for n in range(1, len(new) + 1) if bool(others(whole[:, : start + n], None)[0]))
        return next(stops, None)

    return cut
