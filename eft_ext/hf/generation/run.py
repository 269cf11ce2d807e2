"""One call of `generate`, resolved, and its requests in an engine: prompts go in, tokens come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from eft_ext.decoding.engine import Engine
from eft_ext.decoding.mixture import Mixture
from eft_ext.decoding.requests import InvalidRow, Prompt, Request, TokenOutput
from eft_ext.decoding.sampler import Sampler
from eft_ext.decoding.speculative.engine import SpeculativeEngine
from eft_ext.decoding.speculative.statistics import Statistics
from eft_ext.hf.generation.criteria import Criteria
from eft_ext.hf.generation.processed_sampler import ProcessedSampler
from eft_ext.hf.generation.processors import ProcessingPlan
from eft_ext.hf.generation.speculation import Known, drafts_of, keep
from eft_ext.hf.generation.texts import Texts
from eft_ext.hf.members import Member
from eft_ext.hf.runners.checks import checked
from eft_ext.hf.runners.decode_plan import DecodePlan, lag_of
from eft_ext.hf.runners.distributed import draw_once, sharded
from eft_ext.hf.runners.dynamic_cache_model import DynamicCacheModel
from eft_ext.hf.runners.engine_pool import Drafts, EnginePool, new_engine, pool_key, renew
from eft_ext.methods import MixingMethod


@dataclass
class Call:
    """The models, the prompts, and what is asked of them.

    Attributes:
        members, method: the models, and how they are mixed.
        ids: the first model's prompts [rows, length].
        prompts: ids and mask that each model reads.
        copies: num_return_sequences.
        processing: what is done to the mixture's logits before a token is drawn.
        criteria: what ends rows.
        pad: fills rows that have ended; None where rows cannot end before all do.
        seeds: key of each row's random stream, int64 [rows].
        drafts: tokens to draft in a round, or "auto"; 0 for none.
        use_cache, details, keep_scores, keep_logits: as transformers was asked.
        streamer: receives each column of tokens.
    """

    members: tuple[Member, ...]
    method: MixingMethod
    ids: Tensor
    prompts: list[Prompt]
    copies: int
    processing: ProcessingPlan
    criteria: Criteria
    use_cache: bool
    details: bool
    keep_scores: bool
    keep_logits: bool
    drafts: int | str = 0
    streamer: BaseStreamer | None = None
    pad: int | None = None
    seeds: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def records(self) -> bool:
        """True where scores or logits of every step are returned."""
        return self.keep_scores or self.keep_logits

    @property
    def in_python(self) -> bool:
        """True where Python runs between logits and draw, so that a step cannot be captured."""
        return bool(self.processing.processors) or self.records


class Run:
    """One generation.

    Args:
        call: what runs.
        plan: how; its tier.
        texts: the rows' tokens, as far as the caller has added them.
        slots: rows of the batch; the others follow as rows end. All at once where it is not given.
        engines: idle engines of earlier calls, whose graphs serve again.

    Attributes:
        sampler: what draws; it has recorded scores where these are asked for.
        statistics: of drafts, kept up to date; None without.

    Raises:
        ValueError: a prompt that a model cannot read, or weights that do not fit the rows.
    """

    def __init__(
        self, call: Call, plan: DecodePlan, texts: Texts, *, slots: int | None = None, engines: EnginePool | None = None
    ) -> None:
        self._call, self._plan, self._engines = call, plan, engines
        self._prompts = [checked(member, *own) for member, own in zip(call.members, call.prompts, strict=True)]
        self._rows = len(call.seeds)
        device = call.members[0].output_device
        self._device = torch.device("cpu") if device.type == "meta" else device  # where the logits meet
        self._slots = min(self._rows, slots or self._rows)
        self._drafts: Drafts | None = None
        self._known: Known | None = None
        if call.drafts:
            how = (plan.tier, call.in_python)
            self._drafts, self._known = drafts_of(call.members, call.method, self._rows, call.drafts, *how)
        self.statistics = Statistics() if call.drafts else None
        self.sampler = self._new_sampler(texts)
        self._engine: Engine | None = None
        self._key: Any = None

    def _new_sampler(self, texts: Texts) -> Sampler:
        call, members = self._call, self._call.members
        mixture = Mixture(call.method, self._rows, copies=call.copies, slots=self._slots, device=self._device)
        options: dict[str, Any] = {"once": draw_once if sharded(members) else None}
        if self._drafts is not None:
            options |= {"draft_model": self._drafts.draft_model, "vocab_size": min(m.vocab_size for m in members)}
        if not call.in_python:
            return Sampler(mixture, call.processing.options, **options)
        return ProcessedSampler(
            mixture,
            call.processing,
            texts,
            width=members[0].vocab_size,
            pad=call.pad or 0,
            keep_scores=call.keep_scores,
            keep_logits=call.keep_logits,
            **options,
        )

    def steps(self) -> Iterator[list[TokenOutput]]:
        """Yields the tokens of each step, a request being a row.

        Raises:
            RuntimeError: a row's logits hold NaN or +inf, or every token is excluded; names the row and the models.
        """
        limit = self._call.criteria.max_new_tokens
        requests = [Request(row, seed, limit) for row, seed in enumerate(self._call.seeds.tolist())]
        self._engine = engine = self._acquire()
        try:
            engine.start(requests[: self._slots], some_rows(self._prompts, 0, self._slots))
            begun = self._slots
            for outputs in engine.run():
                yield outputs
                if self._call.criteria.timed_out(self._device):
                    return
                count = min(engine.free, len(requests) - begun)
                if count:
                    engine.admit(requests[begun : begun + count], some_rows(self._prompts, begun, begun + count))
                    begun += count
            if self._engines is not None and self._key is not None and not engine.sampler.mixture.changed:
                self._engines.release(self._key, engine)
        except InvalidRow as error:
            raise RuntimeError(_blame(error, self._call.members, self._prompts)) from error
        finally:
            if self._known is not None:
                keep(self._known)

    def end(self, rows: Sequence[int]) -> None:
        """Ends rows for a reason that the engine does not know."""
        assert self._engine is not None
        self._engine.end(rows)

    def _acquire(self) -> Engine:
        """An engine of an earlier call, or a new one."""
        call, lag = self._call, lag_of(self._plan, self._call.ids.device)
        limit, eos = call.criteria.max_new_tokens, call.criteria.eos_token_ids
        engine = None
        if self._engines is not None and self._plan.tier != "eager" and not call.in_python:
            options = (self._plan.tier, lag, self._slots, *eos, *call.processing.options.items())
            self._key = pool_key(call.members, options, self.sampler.mixture.scalars, self._drafts)
            engine = self._engines.acquire(self._key)
        if engine is not None:
            engine.sampler.mixture.start(call.method, self._rows, call.copies)
            renew(engine, self._prompts, limit)
        else:
            how: dict[str, Any] = {"tier": self._plan.tier, "lag": lag, "use_cache": call.use_cache}
            how |= {"captured": not call.in_python, "drafts": self._drafts}
            engine = new_engine(call.members, self._prompts, limit, self.sampler, eos, **how)
        if isinstance(engine, SpeculativeEngine) and self._drafts is not None and self.statistics is not None:
            engine.renew(self._drafts.schedule, self.statistics)
        return engine


def some_rows(prompts: Sequence[Prompt], first: int, last: int) -> list[Prompt]:
    """Rows `first` to `last` of the prompts, without the columns in which all of them are padded."""
    some: list[Prompt] = []
    for ids, mask in prompts:
        if mask is None:
            some.append((ids[first:last], None))
            continue
        kept = mask[first:last]
        start = int((kept.sum(0) > 0).long().argmax())
        some.append((ids[first:last, start:], kept[:, start:]))
    return some


def _blame(error: InvalidRow, members: Sequence[Member], prompts: Sequence[Prompt]) -> str:
    """Names the models that are to blame; reads the row once more where its logits are gone."""
    bad = []
    for k, (member, (ids, mask)) in enumerate(zip(members, prompts, strict=True)):
        if error.logits is not None:
            logits = error.logits[k]
        else:
            prompt = ids[error.request] if mask is None else ids[error.request][mask[error.request].bool()]
            row = torch.cat([prompt, torch.tensor(error.tokens, dtype=prompt.dtype, device=prompt.device)])
            logits = DynamicCacheModel(member).prefill(row[None])
        if bool((logits.isnan() | (logits == torch.inf)).any()):
            bad.append(member.name)
    why = f"the logits of {' and '.join(bad)} hold NaN or +inf" if bad else "no token is left to choose from"
    return f"row {error.request}, new token {len(error.tokens)}: {why}"
