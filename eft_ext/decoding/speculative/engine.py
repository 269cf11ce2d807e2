"""Speculative decoding as steps of the engine: a round is one captured step, and the host reads it some rounds late.

`decoding.speculate` says what a round is; the tokens are the same. All that it needs lies on the device: how far each
row is, how many of its drafts may count, what it drew, how much of the caches stands. The host knows bounds only, and
these are enough: what attention reads and what storage is made depend on the longest row that there may be.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from eft_ext.decoding.batch import Row
from eft_ext.decoding.engine import Engine, together
from eft_ext.decoding.requests import Draw, InvalidRow, Prompt, Request, TokenOutput
from eft_ext.decoding.speculative.draft_length import Schedule
from eft_ext.decoding.speculative.state import SpeculativeState
from eft_ext.decoding.speculative.token_source import Statistics, source_of_token
from eft_ext.decoding.state import INVALID
from eft_ext.decoding.static_cache.layers import SLACK
from eft_ext.decoding.static_cache.model import StaticCacheModel
from eft_ext.ops import VerifyResult


class Drafting(Draw, Protocol):
    """A `Draw` that also proposes and verifies."""

    def propose(self, logits: Tensor, seeds: Tensor, positions: Tensor, out: Tensor) -> None:
        """Writes proposals [rows] from the draft model's logits [rows, vocab] into `out`."""

    def verify(
        self, drafts: Tensor, logits: Sequence[Tensor], lengths: Tensor, seeds: Tensor, at: Tensor
    ) -> VerifyResult:
        """Verifies the first `lengths` [rows] of `drafts` [rows, k], by logits [rows, k + 1, vocab_k]."""


class SpeculativeEngine(Engine):
    """An `Engine` whose steps are rounds: `run` brings up to k + 1 tokens of a row at once, each with its source.

    Args:
        draw: proposes and verifies too.
        schedule: how many tokens to draft. It hears of a round when the host reads it.
        proposer: which of the feeders drafts.
        most: drafts of a round at most, below 64.
        others: as for `Engine`; a `stepper` without `chunk`.

    Attributes:
        statistics: kept up to date with the rounds that were read.
    """

    draw: Any  # a `Drafting`

    def __init__(
        self,
        feeders: Sequence[StaticCacheModel],
        draw: Drafting,
        ends: Sequence[int],
        *,
        schedule: Schedule,
        proposer: int = 1,
        most: int = 16,
        **others: Any,
    ) -> None:
        if not 0 <= most < SLACK:
            raise ValueError(f"most: expected 0 to {SLACK - 1} drafts, got {most}")
        self._k = 0  # of the next step
        self._most, self._proposer, self._schedule = most, proposer, schedule
        self._under_way: deque[tuple[int, float]] = deque()  # k of each round in `_pending`, and when it was launched
        self._launched = self._last_read = 0.0
        self.statistics = Statistics()
        super().__init__(feeders, draw, ends, **others)

    def renew(self, schedule: Schedule, statistics: Statistics) -> None:
        """Others for the next start."""
        self._schedule, self.statistics = schedule, statistics

    @torch.inference_mode()
    def start(self, jobs: Sequence[Request], prompts: Sequence[Prompt]) -> None:
        self._under_way.clear()
        super().start(jobs, prompts)

    def _new_state(self, rows: int, slots: int, device: torch.device) -> SpeculativeState:
        return SpeculativeState(rows, self._ends, slots, device, self._most)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*super().shape, self._k)

    def step(self) -> None:
        """A round: drafts one by one, the other models over all of them, the verification, and the tail."""
        k, state = self._k, self.state
        if k == 0:
            super().step()
            return
        state.begin(k)
        drafting, own = self.feeders[self._proposer], []
        for i in range(k + 1):  # the last draft is read too: its logits are this model's share of the bonus token
            own.append(drafting.run(state.drafts[i][:, None], skip=i))
            if i < k:
                given = together([own[-1][:, 0]], state.device)[0]
                self.draw.propose(given, state.seeds, state.position, state.proposed)
                state.take(i + 1)
        read = state.drafts[: k + 1].T.contiguous()
        others = [partial(feeder.run, read) for feeder in self.feeders if feeder is not drafting]
        found = self._parallel(others) if others else []
        found.insert(self._proposer, torch.cat(own, dim=1))
        logits = together(found, state.device)
        state.end(self.draw.verify(read[:, 1:], logits, state.lengths, state.seeds, state.steps))

    def _launch(self) -> None:
        self._compact()
        while len(self._pending) <= self.ahead and self._batch.needed:
            self._expect()
            k = self._draft_length()
            if k is None:
                return
            self._k = k
            for feeder in self.feeders:
                feeder.reserve(k + 1)
                feeder.set_max_length(feeder.longest + k + 1)
            self._launched = time.perf_counter()
            self._step()
            self._sent(list(self._batch.slots))

    def _draft_length(self) -> int | None:
        """k of the next round; None where rounds under way have to be read first, to know how much room there is."""
        asked = min(self._schedule.draft_length(), self._most)
        left = max(row.left for row in self._batch.rows) - 1
        # Few different ones, so that few graphs are captured; each row's own room bounds its drafts on the device.
        k = min(asked, left if left < 1 else 1 << (left - 1).bit_length())
        limits = [feeder.limit for feeder in self.feeders if feeder.limit is not None]
        room = min(limits) - max(feeder.longest for feeder in self.feeders) - 1 if limits else k
        if k <= room:
            return k
        return None if self._pending else max(0, min(asked, left, room))

    def _sent(self, rows: list[Row | None]) -> None:
        super()._sent(rows)
        self._under_way.append((self._k, self._launched))

    def _begin(self, slots: list[int], jobs: Sequence[Request], logits: Sequence[Tensor]) -> None:
        self._k, self._launched = 0, time.perf_counter()
        self.statistics.rows += len(jobs)
        super()._begin(slots, jobs, logits)
        self.state.forget_ended()

    def _expect(self) -> None:
        # As many as there may be: nobody knows yet what the rounds under way have brought.
        most = {row: len(row.tokens) for row in self._batch.rows}
        for (_, rows), (k, _) in zip(self._pending, self._under_way, strict=True):
            for row in rows:
                if row in most:
                    most[row] += k + 1
        for k, feeder in enumerate(self.feeders if most else ()):
            feeder.set_max_length(max(row.prompts[k] + min(n, row.job.budget) - 1 for row, n in most.items()))

    def _read(self) -> list[TokenOutput]:
        ticket, rows = self._pending.popleft()
        k, launched = self._under_way.popleft()
        news: list[TokenOutput] = []
        verified = decided = accepted = longest = 0
        entries: list[Any] = self._readback.receive(ticket)
        for row, (stands, good, drafted, *tokens) in zip(rows, entries, strict=False):
            if row is None or stands == 0:
                continue
            verified, longest = verified + bool(row.tokens), max(longest, drafted)
            accepted += min(stands, good)
            decided += min(stands, good) + (good < min(stands, drafted))
            for i, token in enumerate(tokens[:stands]):
                if token == INVALID:
                    raise InvalidRow(row.job.number, row.tokens, None)
                news.append(self._said(row, token, source_of_token(i, good, drafted)))
            row.drawn += stands - 1
        now = time.perf_counter()
        self.statistics.emitted += len(news)
        if verified:  # otherwise first tokens, from prompts
            self._schedule.observe(k, decided, accepted, now - max(launched, self._last_read))
            self.statistics.add_round(verified, decided, accepted, longest)
        self._last_read = now
        return news
