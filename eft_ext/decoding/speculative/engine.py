"""Exact speculative decoding of a mixture, as steps of the engine: a round is one step, which may be captured.

The draft model, a small one, proposes k tokens; the other models read the last token and the k drafts in one forward
pass each; `fused_verify` accepts some of them and draws the token that follows; caches are cropped by length. The
tokens are distributed as if each had been drawn from the mixture by an ordinary step (Mitchell et al. 2023,
"speculative up-scaling"; Leviathan et al. 2023), and greedy ones are the same where the models' logits do not depend
on how many tokens are read at once.

All that a round needs lies on the device: how far each row is, how many of its drafts may count, what it drew, how
many cached tokens are kept. The host knows bounds, which suffice: what attention reads and what storage is made depend
on the longest row that there may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

import torch

from eft_ext.decoding.batch import Launched, Row, RowTokens
from eft_ext.decoding.cached_model import CachedModel
from eft_ext.decoding.engine import Engine
from eft_ext.decoding.placement import together
from eft_ext.decoding.requests import Request
from eft_ext.decoding.sampler import Sampler
from eft_ext.decoding.speculative.draft_length import DraftSchedule
from eft_ext.decoding.speculative.state import SpeculativeState
from eft_ext.decoding.speculative.statistics import Statistics
from eft_ext.decoding.static_cache.layers import SLACK

MAX_DRAFT_TOKENS = SLACK - 1  # one more token is read, and a sliding window's ring has room for this many


class SpeculativeEngine(Engine):
    """An `Engine` whose steps are rounds: `run` brings up to k + 1 tokens of a row at once, each with its source.

    Args:
        sampler: its `draft_model` proposes.
        schedule: chooses how many tokens to draft; is given a round's outcome when the host reads it.
        max_draft_tokens: drafts of a round at most.
        others: as for `Engine`; a `launcher` without `chunk`.

    Attributes:
        statistics: kept up to date with the rounds that were read.
    """

    def __init__(
        self,
        models: Sequence[CachedModel],
        sampler: Sampler,
        eos_token_ids: Sequence[int],
        *,
        schedule: DraftSchedule,
        max_draft_tokens: int = 16,
        **others: Any,
    ) -> None:
        if not 0 <= max_draft_tokens <= MAX_DRAFT_TOKENS:
            raise ValueError(f"max_draft_tokens: expected 0 to {MAX_DRAFT_TOKENS}, got {max_draft_tokens}")
        self._most = max_draft_tokens
        self._last_read = 0.0
        self._loose = True  # the bounds of the rows' lengths: a round has been read since they were set
        self.renew(schedule, Statistics())
        super().__init__(models, sampler, eos_token_ids, **others)

    def renew(self, schedule: DraftSchedule, statistics: Statistics) -> None:
        """Others for the next start."""
        self._schedule, self.statistics = schedule, statistics

    def _new_state(self, rows: int, slots: int, device: torch.device) -> SpeculativeState:
        return SpeculativeState(rows, self._eos, slots, device, self._most)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*super().shape, self._drafts)

    def step(self) -> None:
        """A round: drafts one by one, the other models over all of them, the verification, and the advance."""
        k, state = self._drafts, self.state
        if k == 0:
            super().step()
            return
        state.begin_round(k)
        drafting, own = self.models[self.sampler.draft_model], []
        for i in range(k + 1):  # the last draft is read too: its logits are this model's share of the bonus token
            own.append(drafting.run(state.drafts[i][:, None], skip=i))
            if i < k:
                given = together([own[-1][:, 0]], state.device)[0]
                self.sampler.propose(given, state.drafts[1 : i + 1], state.seeds, state.position, state.proposed)
                state.add_draft(i + 1)
        read = state.drafts[: k + 1].T.contiguous()
        others = [partial(model.run, read) for model in self.models if model is not drafting]
        found = self._parallel(others) if others else []
        found.insert(self.sampler.draft_model, torch.cat(own, dim=1))
        logits = together(found, state.device)
        state.end_round(self.sampler.verify(read[:, 1:], logits, state.lengths, state.seeds, state.steps))

    def _num_drafts(self) -> int | None:
        if self._loose:
            self._set_max_lengths()  # nobody knows yet what the rounds under way have brought
        under_way = sum(step.drafts > 0 for step in self._pending)
        self._loose = bool(under_way)
        asked = min(self._schedule.draft_length(under_way), self._most)
        left = max(row.left for row in self._batch.rows) - 1
        # Few different ones, so that few graphs are captured; each row's own room bounds its drafts on the device.
        k = min(asked, left if left < 1 else 1 << (left - 1).bit_length())
        limits = [model.limit for model in self.models if model.limit is not None]
        room = min(limits) - max(model.longest for model in self.models) - 1 if limits else k
        if k <= room:
            return k
        return None if self._pending else max(0, min(asked, left, room))

    def _begin(self, slots: list[int], requests: Sequence[Request], logits: Sequence[Any]) -> None:
        self.statistics.rows += len(requests)
        super()._begin(slots, requests, logits)
        self.state.forget_ended()

    def _observe(self, step: Launched, found: list[tuple[Row, RowTokens]]) -> None:
        now = perf_counter()
        self.statistics.emitted += sum(len(new.tokens) for _, new in found)
        rounds = [new for row, new in found if len(row.tokens) > len(new.tokens)]  # others: from prompts
        if rounds:
            accepted = sum(min(len(one.tokens), one.accepted) for one in rounds)
            resampled = sum(one.accepted < min(len(one.tokens), one.drafted) for one in rounds)
            longest = max(one.drafted for one in rounds)
            seconds = now - max(step.time, self._last_read)
            self._schedule.observe(step.drafts, accepted + resampled, accepted, seconds, len(rounds))
            self.statistics.add_round(len(rounds), accepted + resampled, accepted, longest)
            self._loose = self._loose or step.drafts > 0
        self._last_read = now
