"""Exact speculative decoding of a mixture: one model drafts, all verify, caches roll back by length.

The small fine-tuned model proposes k tokens; the other models read the last token and the k proposals in one forward
pass each; `fused_verify` says how many stand and draws the token that follows. The tokens are distributed as if each
had been drawn from the mixture by an ordinary step (Mitchell et al. 2023, "speculative up-scaling"; Leviathan et al.
2023), and greedy ones are the same where the models' logits do not depend on how many tokens are read at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from eft_ext.decoding.speculative.draft_length import Schedule
from eft_ext.decoding.speculative.drafting import Drawn, Reader, Rows, drafted, ordinary
from eft_ext.decoding.speculative.sampler import Sampler
from eft_ext.decoding.speculative.token_source import Statistics, TokenSource

Cut = Callable[[int, list[int]], int | None]


class Round(NamedTuple):
    """The tokens of one round. Rows are numbered as in the prompts."""

    rows: list[int]
    tokens: list[list[int]]  # of each of these rows; what lies behind an end is cut off
    marks: list[list[TokenSource]]
    ended: list[bool]


def speculate(
    readers: Sequence[Reader],
    prompts: Sequence[tuple[Tensor, Tensor | None]],
    sampler: Sampler,
    schedule: Schedule,
    *,
    seeds: Tensor,
    budgets: Sequence[int],
    ends: Sequence[int] = (),
    cut: Cut | None = None,
    room: int | None = None,
    statistics: Statistics | None = None,
) -> Iterator[Round]:
    """Decodes all rows, yielding after each round.

    Args:
        readers: one for each model, in the order of the weights; `sampler.draft` indexes the one that proposes.
        prompts: ids and mask [rows, length] for each reader, padded on the left.
        schedule: how many tokens to draft in each round.
        seeds: key of each row's random stream, int64 [rows].
        budgets: new tokens of each row at most, at least 1.
        ends: tokens that end a row.
        cut: called with a row's number and its new tokens of this round; how many of them stand if the row ends
            there for another reason, else None.
        room: tokens that a row may hold, where models have a table of positions.
        statistics: kept up to date.

    Raises:
        RuntimeError: NaN or +inf in a row's logits, or no token is left; names the row and its new token.
    """
    stats = Statistics() if statistics is None else statistics
    stats.rows = len(budgets)
    start = [reader.prefill(*prompt) for reader, prompt in zip(readers, prompts, strict=True)]
    device, width = start[0].device, min(x.shape[-1] for x in start)
    held = [_lengths(*prompt) for prompt in prompts]  # tokens of each row in each reader's cache, by original row
    numbers = list(range(len(budgets)))
    rows = Rows(numbers, [0] * len(numbers), list(budgets), seeds.new_empty(0), seeds.to(device), sampler)
    drawn = ordinary(rows, start)
    lengths: list[int] | None = None  # drafts of each row in the round before
    seconds = 0.0
    while True:
        result = _cut_off(rows, drawn, ends, cut)
        _count(stats, schedule, result, lengths, seconds)
        yield result
        stay = [i for i, ended in enumerate(result.ended) if not ended]
        if not stay:
            return
        if len(stay) < len(rows.numbers):
            for reader in readers:
                reader.select_rows(stay)
        rows = rows.after(result.tokens, stay)
        longest = [rows.longest(own) for own in held]
        for reader, tokens in zip(readers, longest, strict=True):
            reader.set_max_length(tokens)

        began = time.perf_counter()
        most = schedule.draft_length()
        if room is not None:
            most = max(0, min(most, room - max(longest) - 1))
        lengths = [min(most, left - 1) for left in rows.left]  # the round may emit one more
        if max(lengths) == 0:
            drawn = ordinary(rows, [reader.forward(rows.last[:, None])[:, 0] for reader in readers])
        else:
            drawn = drafted(readers, rows, lengths, width)
        seconds = time.perf_counter() - began


def _cut_off(rows: Rows, drawn: Drawn, ends: Sequence[int], cut: Cut | None) -> Round:
    """Cuts every row's tokens where it ends: at an end token, by `cut`, at its budget."""
    tokens, marks, ended = [], [], []
    for row, left, new, kinds in zip(rows.numbers, rows.left, *drawn, strict=True):
        stops = [i + 1 for i, token in enumerate(new) if token in ends] + ([left] if left <= len(new) else [])
        stop = min(stops, default=None)
        earlier = cut(row, new[:stop]) if cut is not None else None
        stop = earlier if earlier is not None else stop
        tokens.append(new[:stop])
        marks.append(kinds[:stop])
        ended.append(stop is not None)
    return Round(rows.numbers, tokens, marks, ended)


def _count(
    statistics: Statistics, schedule: Schedule, result: Round, lengths: list[int] | None, seconds: float
) -> None:
    """Adds a round to the statistics, and tells the schedule; `lengths` is None where the prompts were read."""
    statistics.emitted += sum(map(len, result.tokens))
    if lengths is None:
        return
    marks = [mark for row in result.marks for mark in row]
    accepted = marks.count(TokenSource.accepted)
    decided = accepted + marks.count(TokenSource.resampled)
    schedule.observe(max(lengths), decided, accepted, seconds)
    statistics.add_round(len(result.rows), decided, accepted, max(lengths))


def _lengths(ids: Tensor, mask: Tensor | None) -> list[int]:
    return [ids.shape[1]] * ids.shape[0] if mask is None else mask.sum(-1).tolist()
