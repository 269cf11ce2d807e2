"""Exact speculative decoding of a mixture: one model drafts, all verify, caches roll back by length.

The small fine-tuned model proposes k tokens; the other models read the last token and the k proposals in one forward
pass each; `fused_verify` says how many stand and draws the token that follows. The tokens are distributed as if each
had been drawn from the mixture by an ordinary step (Mitchell et al. 2023, "speculative up-scaling"; Leviathan et al.
2023), and greedy ones are the same where the models' logits do not depend on how many tokens are read at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from eft_ext.decoding.schedule import Schedule
from eft_ext.ops import VerifyResult, fused_mix, fused_step, fused_verify
from eft_ext.ops.method import Method, at_positions


class Reader(Protocol):
    """What the loop asks of a model and its cache; `decoding.Feeder` is one."""

    @property
    def lengths(self) -> Tensor: ...  # tokens that each row holds, [rows]

    def prefill(self, ids: Tensor, mask: Tensor | None = None) -> Tensor: ...
    def feed(self, tokens: Tensor) -> Tensor: ...
    def rollback(self, lengths: Tensor) -> None: ...
    def keep(self, rows: list[int]) -> None: ...
    def expect(self, longest: int) -> None: ...


class Mark(IntEnum):
    """How a token came about."""

    step = 0  # an ordinary step of the mixture
    accepted = 1  # drafted, and stands
    redrawn = 2  # drawn from what the draft model gives too little, in place of a rejected draft
    bonus = 3  # drawn from the mixture behind drafts that all stand


@dataclass(frozen=True)
class Sampler:
    """How rows are mixed and drawn from.

    Attributes:
        weights: one for each model, numbers or tensors [rows]; or a method with such parameters, or with functions of
            the step, which brings its conservative settings along.
        options: temperature, top_k, top_p, min_p, conservative_top_p, ...: as for `fused_verify`.
        draft: the model that proposes.
        draft_options: its temperature and filters, where they are not those of `options`.
    """

    weights: Sequence[float | Tensor] | Method
    options: dict[str, Any] = field(default_factory=dict)
    draft: int = 1
    draft_options: dict[str, Any] = field(default_factory=dict)

    def keep(self, rows: Tensor) -> Sampler:
        def own(option: Any) -> Any:
            return option[rows.to(option.device)] if isinstance(option, Tensor) else option

        def parameter(name: str, value: Any) -> Any:
            if callable(value) and not isinstance(value, Tensor):
                return lambda step: own(value(step))
            return own(value)

        options, drafting = ({n: own(x) for n, x in o.items()} for o in (self.options, self.draft_options))
        given = self.weights
        weights = given.mapped(parameter) if isinstance(given, Method) else [own(w) for w in given]
        return Sampler(weights, options, self.draft, drafting)

    def step(self, logits: Sequence[Tensor], seeds: Tensor, positions: Tensor) -> Tensor:
        """Tokens [rows] from every model's logits [rows, vocab]."""
        drawn = {"seed": seeds, "position": positions, **self.options}
        if isinstance(self.weights, Method):
            now = at_positions(self.weights, positions.shape, positions, logits[0].device)
            tokens: Tensor = fused_mix(logits, now, **drawn)
        elif "conservative_top_p" in self.options:
            tokens = fused_step(*logits, scale=self.weights[0], **drawn)
        else:
            tokens = fused_mix(logits, self.weights, **drawn)
        return tokens

    def propose(self, logits: Tensor, width: int, seeds: Tensor, positions: Tensor) -> Tensor:
        """A draft [rows] from the draft model's logits [rows, vocab], by an ordinary step of that model alone."""
        own = {name: x for name, x in self.options.items() if not name.startswith("conservative")}
        own.update(self.draft_options)
        tokens: Tensor = fused_mix([logits], [1.0], seed=seeds, position=positions, vocab_size=width, **own)
        return tokens

    def verify(
        self, drafts: Tensor, logits: Sequence[Tensor], lengths: Tensor, seeds: Tensor, at: Tensor
    ) -> VerifyResult:
        """What stands of `drafts` [rows, k], given every model's logits [rows, k + 1, vocab]."""
        own = {f"draft_{name}": x for name, x in self.draft_options.items()}
        q = logits[self.draft][:, :-1]
        return fused_verify(
            drafts, q, logits, self.weights, lengths=lengths, seed=seeds, position=at, **self.options, **own
        )


class Round(NamedTuple):
    """What one round gave. Rows are numbered as in the prompts."""

    rows: list[int]
    tokens: list[list[int]]  # of each of these rows; what lies behind an end is cut off
    marks: list[list[Mark]]
    ended: list[bool]


@dataclass
class Statistics:
    """Of a whole generation, kept up to date while it runs.

    Attributes:
        rows: rows of the batch; the first token of each comes from its prompt, without a round.
        rounds: of row and round: a batch of two counts twice.
        drafted: proposals that were decided: none behind a rejection or an end counts.
        accepted: those that stand.
        emitted: tokens.
        draft_lengths: k of each round.
    """

    rows: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    emitted: int = 0
    draft_lengths: list[int] = field(default_factory=list)

    @property
    def acceptance(self) -> float:
        """Share of the decided proposals that stand; an estimate of 1 - TV(p, q)."""
        return self.accepted / self.drafted if self.drafted else float("nan")

    @property
    def tokens_per_round(self) -> float:
        return (self.emitted - self.rows) / self.rounds if self.rounds else float("nan")


def speculate(
    readers: Sequence[Reader],
    prompts: Sequence[tuple[Tensor, Tensor | None]],
    sampler: Sampler,
    schedule: Schedule,
    *,
    seeds: Tensor,
    budgets: Sequence[int],
    ends: Sequence[int] = (),
    cut: Callable[[int, list[int]], int | None] | None = None,
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
    device = start[0].device
    width = min(x.shape[-1] for x in start)
    here = list(range(len(budgets)))  # rows still in the batch
    done = [0] * len(here)  # their new tokens
    seeds = seeds.to(device)
    left = list(budgets)
    last = _checked(sampler.step([x.to(device) for x in start], seeds, seeds.new_zeros(len(here))), here, done)
    held = [_lengths(*prompt) for prompt in prompts]  # tokens of each row in each reader's cache, by original row
    found, marks = [[t] for t in last.tolist()], [[Mark.step]] * len(here)
    k, taken = None, 0.0
    while True:
        result = _finish(here, found, marks, left, ends, cut)
        stats.emitted += sum(map(len, result.tokens))
        if k is not None:
            how = [mark for row in result.marks for mark in row]
            accepted = how.count(Mark.accepted)
            decided = accepted + how.count(Mark.redrawn)
            schedule.observe(k, decided, accepted, taken)
            stats.rounds += len(here)
            stats.drafted += decided
            stats.accepted += accepted
            stats.draft_lengths.append(k)
        yield result
        stay = [i for i, ended in enumerate(result.ended) if not ended]
        if not stay:
            return
        if len(stay) < len(here):
            for reader in readers:
                reader.keep(stay)
            rows = torch.tensor(stay, device=device)
            last, seeds, sampler = last[rows], seeds[rows], sampler.keep(rows)
        here = [here[i] for i in stay]
        done = [done[i] + len(result.tokens[i]) for i in stay]
        left = [left[i] - len(result.tokens[i]) for i in stay]
        for reader, own in zip(readers, held, strict=True):
            reader.expect(_longest(own, here, done))

        began = time.perf_counter()
        most = schedule.draft_length()
        if room is not None:
            most = max(0, min(most, room - max(_longest(h, here, done) for h in held) - 1))
        lengths = [min(most, rest - 1) for rest in left]  # the round may emit one more
        k = max(lengths)
        at = torch.tensor(done, device=device)
        if k == 0:
            logits = [reader.feed(last[:, None])[:, 0].to(device) for reader in readers]
            last = _checked(sampler.step(logits, seeds, at), here, done)
            found, marks = [[t] for t in last.tolist()], [[Mark.step]] * len(here)
        else:
            at_most = torch.tensor(lengths, device=device)
            verdict = draft_and_verify(readers, sampler, last, k, at_most, width, seeds, at)
            # Of the k + 1 tokens read, the last one before and the accepted ones stand.
            forget = k - verdict.num_accepted
            host = torch.cat([verdict.tokens, verdict.num_accepted[:, None], verdict.status[:, None]], dim=1).tolist()
            for reader in readers:
                reader.rollback(reader.lengths - forget.to(reader.lengths.device))
            last = verdict.tokens.gather(1, verdict.num_accepted[:, None])[:, 0]
            _check(host, here, done)
            found = [row[: row[-2] + 1] for row in host]
            marks = [
                [Mark.accepted] * row[-2] + [Mark.redrawn if row[-2] < length else Mark.bonus if length else Mark.step]
                for row, length in zip(host, lengths, strict=True)
            ]
        taken = time.perf_counter() - began


def draft_and_verify(
    readers: Sequence[Reader],
    sampler: Sampler,
    last: Tensor,
    k: int,
    lengths: Tensor,
    width: int,
    seeds: Tensor,
    at: Tensor,
) -> VerifyResult:
    """Every reader reads `last` [rows] and k drafts; what became of the first `lengths` [rows] of them."""
    # The draft model reads one token at a time, the last draft too: its logits there are its share of the bonus.
    read = torch.empty(len(last), k + 1, dtype=torch.int64, device=last.device)  # the last token, then the drafts
    read[:, 0] = last
    own: list[Tensor] = []  # the draft model's logits [rows, 1, vocab]
    for i in range(k + 1):
        own.append(readers[sampler.draft].feed(read[:, i : i + 1]).to(last.device))
        if i < k:
            drawn = sampler.propose(own[-1][:, 0], width, seeds, at + i)
            read[:, i + 1] = drawn.clamp(min=0)  # invalid rows are found by the verification
    logits = [
        torch.cat(own, dim=1) if m == sampler.draft else reader.feed(read).to(last.device)
        for m, reader in enumerate(readers)
    ]
    return sampler.verify(read[:, 1:], logits, lengths, seeds, at)


def _finish(
    here: list[int],
    found: list[list[int]],
    marks: list[list[Mark]],
    left: list[int],
    ends: Sequence[int],
    cut: Callable[[int, list[int]], int | None] | None,
) -> Round:
    """Cuts every row's tokens where it ends: at an end token, by `cut`, at its budget."""
    tokens, ended = [], []
    for row, new, rest in zip(here, found, left, strict=True):
        stops = [i + 1 for i, token in enumerate(new) if token in ends] + ([rest] if rest <= len(new) else [])
        stop = min(stops, default=None)
        earlier = cut(row, new[:stop]) if cut is not None else None
        stop = earlier if earlier is not None else stop
        tokens.append(new[:stop])
        ended.append(stop is not None)
    return Round(here, tokens, [m[: len(t)] for m, t in zip(marks, tokens, strict=True)], ended)


def _lengths(ids: Tensor, mask: Tensor | None) -> list[int]:
    return [ids.shape[1]] * ids.shape[0] if mask is None else mask.sum(-1).tolist()


def _longest(prompts: list[int], here: list[int], done: list[int]) -> int:
    """What the longest of these rows holds: its prompt and its new tokens, of which the last is not read yet."""
    return max(prompts[row] + n - 1 for row, n in zip(here, done, strict=True))


def _checked(tokens: Tensor, here: list[int], done: list[int]) -> Tensor:
    _check([[token, 0, int(token < 0)] for token in tokens.tolist()], here, done)
    return tokens


def _check(host: list[list[int]], here: list[int], done: list[int]) -> None:
    for i, row in enumerate(host):
        if row[-1]:
            raise RuntimeError(
                f"row {here[i]}, new token {done[i] + row[-2]}: a model's logits hold NaN or +inf, or no token is left "
                "to choose from"
            )
