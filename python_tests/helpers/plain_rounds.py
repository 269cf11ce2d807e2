"""Speculative decoding, plainly: every row alone, its whole text read again at each pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eft_ext.decoding.requests import TokenSource
from eft_ext.decoding.speculative.draft_length import DraftSchedule
from eft_ext.decoding.speculative.statistics import Statistics
from eft_ext.methods import MixingMethod
from eft_ext.ops import fused_mix, fused_verify


@dataclass
class PlainRow:
    """One row: `text` is its prompt and its new tokens."""

    text: list[int]
    seed: int
    max_new_tokens: int
    method: MixingMethod
    tokens: list[int] = field(default_factory=list)
    sources: list[TokenSource] = field(default_factory=list)
    ended: bool = False

    @property
    def left(self) -> int:
        return self.max_new_tokens - len(self.tokens)


class PlainRounds:
    """Models that decode rows of drafts.

    Args:
        models: of transformers.
        options: temperature and filters.
        draft_model: index of the model that proposes.
        limit: tokens that a row may hold.
    """

    def __init__(
        self,
        models: Sequence[Any],
        options: dict[str, Any],
        *,
        eos_token_ids: Sequence[int] = (),
        draft_model: int = 1,
        limit: int | None = None,
    ) -> None:
        self._models, self._draft_model, self._eos, self._limit = models, draft_model, set(eos_token_ids), limit
        self._options, self._exactly = options, {**options, "backend": "reference"}
        self._width = min(model.config.vocab_size for model in models)

    @torch.no_grad()
    def run(self, rows: Sequence[PlainRow], schedule: DraftSchedule) -> Statistics:
        """Decodes the rows to their ends."""
        statistics = Statistics(rows=len(rows))
        for row in rows:
            self._round(row, 0)
        while going := [row for row in rows if not row.ended]:
            asked = schedule.draft_length()
            if self._limit is not None:
                asked = max(0, min(asked, self._limit - max(len(row.text) for row in going)))
            before = [len(row.tokens) for row in going]
            drafted = [self._round(row, min(asked, row.left - 1)) for row in going]
            new = [source for row, start in zip(going, before, strict=True) for source in row.sources[start:]]
            accepted = new.count(TokenSource.accepted)
            decided = accepted + new.count(TokenSource.resampled)
            schedule.observe(max(drafted), decided, accepted, 0.0)
            statistics.add_round(len(going), decided, accepted, max(drafted))
        statistics.emitted = sum(len(row.tokens) for row in rows)
        return statistics

    def _round(self, row: PlainRow, k: int) -> int:
        """Drafts k tokens, and appends those that are accepted and the one that follows. Returns k."""
        at, seed = len(row.tokens), torch.tensor([row.seed])
        own, drafts = self._models[self._draft_model], list[int]()
        for i in range(k):
            q = _logits(own, row.text + drafts, 1)[:, 0]
            drawn = fused_mix([q], [1.0], seed=seed, position=at + i, vocab_size=self._width, **self._options)
            drafts.append(int(drawn))
        logits = [_logits(model, row.text + drafts, k + 1) for model in self._models]
        if k == 0:
            drawn = fused_mix([x[:, 0] for x in logits], row.method, seed=seed, position=at, **self._exactly)
            self._append(row, [int(drawn)], [TokenSource.step])
            return k
        q, given = logits[self._draft_model][:, :-1], torch.tensor([drafts])
        verdict = fused_verify(given, q, logits, row.method, seed=seed, position=at, **self._exactly)
        accepted = int(verdict.num_accepted)
        last = TokenSource.bonus if accepted == k else TokenSource.resampled
        new = verdict.tokens[0, : accepted + 1].tolist()
        assert new[:accepted] == drafts[:accepted]
        self._append(row, new, [TokenSource.accepted] * accepted + [last])
        return k

    def _append(self, row: PlainRow, tokens: list[int], sources: list[TokenSource]) -> None:
        for token, source in zip(tokens, sources, strict=True):
            row.tokens.append(token)
            row.text.append(token)
            row.sources.append(source)
            if token in self._eos or row.left == 0:
                row.ended = True
                return


def _logits(model: Any, text: list[int], n: int) -> Tensor:
    """Behind the last n places, [1, n, vocab]."""
    found: Tensor = model(torch.tensor([text]), use_cache=False).logits[:, -n:]
    return found


def method_of_row(method: MixingMethod, row: int) -> MixingMethod:
    """The method with a row's own numbers, also where functions of the step give some for each row."""

    def own(value: Any) -> Any:
        value = torch.as_tensor(value)
        return float(value[row] if value.ndim else value)

    def of_row(name: str, value: Any) -> Any:
        step: Callable[[int], Any] | None = value if callable(value) and not isinstance(value, Tensor) else None
        return own(value) if step is None else lambda at: own(step(at))

    return method.mapped(of_row)
