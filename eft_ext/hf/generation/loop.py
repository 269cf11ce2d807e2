"""The decoding loop: a forward pass of each model, one fused step, until every row has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.generation import GenerateDecoderOnlyOutput

from eft_ext.decoding.cached_model import CachedModel
from eft_ext.decoding.engine import together
from eft_ext.hf.generation.mixture import Mixture
from eft_ext.hf.generation.processors import Plan
from eft_ext.hf.generation.rows import blame
from eft_ext.hf.inputs.context import Context
from eft_ext.hf.runners.distributed import agreed, draw_once
from eft_ext.ops import fused_mix


@dataclass
class Loop:
    """Everything one generation needs besides its prompts.

    Attributes:
        models: in the order of the mixture's weights.
        mixture: weights; tensors [rows] where rows differ.
        plan: what is done to the mixture's logits before a token is drawn.
        criteria: transformers' stopping criteria.
        seeds: key of each row's random stream, int64 [rows].
        pad_token_id: fills a row that has ended; None if rows cannot end before all do.
        context: hears how many new tokens the rows have.
        emit: receives each step's tokens [rows] on the host.
        once: rank 0's tokens and ends count for all processes (`eft_ext.hf.runners.distributed`).
        keep_scores, keep_logits: record the processed scores, or the mixture's raw logits, of each step.
    """

    models: Sequence[CachedModel]
    mixture: Mixture
    plan: Plan
    criteria: StoppingCriteriaList
    seeds: Tensor
    pad_token_id: int | None
    context: Context
    emit: Callable[[Tensor], Any] | None = None
    keep_scores: bool = False
    keep_logits: bool = False
    once: bool = False
    scores: list[Tensor] = field(default_factory=list)
    raw: list[Tensor] = field(default_factory=list)

    def run(self, ids: Tensor, prompts: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """Decode all rows.

        Args:
            ids: the first model's prompt [rows, length], which the result begins with.
            prompts: ids and mask for each model.

        Returns:
            Token ids [rows, length + new], rows that ended early filled with `pad_token_id`.

        Raises:
            RuntimeError: a row's logits hold NaN or +inf, or every token is excluded; names the row.
        """
        rows = ids.shape[0]
        # Rows still in the batch. Those that end leave it, unless nothing could stand in for their tokens
        # (no end-of-text token): then, as in transformers, they go on until all have ended.
        here = torch.arange(rows, device="cpu")
        active = here.to(ids.device)
        ended = torch.zeros(rows, dtype=torch.bool, device=ids.device)
        outputs = [model.prefill(*prompt) for model, prompt in zip(self.models, prompts, strict=True)]
        device = outputs[0].device
        self.seeds, self.mixture = self.seeds.to(device), self.mixture.to(device)
        step = 0
        while True:
            logits = together(outputs, device)
            drawn = self._shared(logits, ids, active, step).to(ids.device)
            tokens = ids.new_full((rows,), self.pad_token_id or 0).index_copy(0, active, drawn)
            ids = torch.cat([ids, tokens.clamp(min=0)[:, None]], dim=1)
            over = self.criteria(ids, tuple(self.scores) if self.keep_scores else None)
            ended = ended | (agreed(over) if self.once else over)
            host = torch.stack([tokens, ended.long()]).cpu()  # the one wait of a step
            invalid = host[0][here] < 0
            if invalid.any():
                place = int(invalid.nonzero()[0])
                raise RuntimeError(_blame(place, int(here[place]), step, self.models, logits))
            if self.emit is not None:
                self.emit(host[0])
            for row in here.tolist():
                self.context.reached(row, step + 1)
            if host[1].all():
                return ids
            if self.pad_token_id is not None:
                staying = (host[1][here] == 0).nonzero()[:, 0]
                if len(staying) < len(here):
                    self._keep(staying)
                    here, drawn = here[staying], drawn[staying.to(drawn.device)]
                    active = here.to(ids.device)
            outputs = [model.forward(drawn[:, None])[:, -1] for model in self.models]
            step += 1

    def _shared(self, logits: list[Tensor], ids: Tensor, active: Tensor, step: int) -> Tensor:
        """`_draw`; where models are sharded over processes, what rank 0 drew."""
        drawn = self._draw(logits, ids, active, step)
        if self.once:
            draw_once(lambda: None, drawn)
        return drawn

    def _draw(self, logits: list[Tensor], ids: Tensor, active: Tensor, step: int) -> Tensor:
        """Next token of each active row, [active], −1 where the row is invalid."""
        self.mixture = self.mixture.at(step)
        options = {**self.plan.options, "seed": self.seeds, "position": step}
        if not (self.plan.processors or self.keep_scores or self.keep_logits):
            return self.mixture.sample(logits, **options)
        z = self.mixture.combine(logits)
        # Processors may keep state for every row, and both they and readers of scores index all of large's columns.
        full = self._widen(z, active, ids.shape[0], logits[0].shape[1]).to(ids.device)
        if self.keep_logits:
            self.raw.append(full)
        scores = self.plan.processors(ids, full) if self.plan.processors else full
        if self.keep_scores:
            self.scores.append(self.plan.warpers(ids, scores))
        if not self.plan.processors:
            return self.mixture.sample(logits, **options)
        return fused_mix([scores[active].to(z.device)], [1.0], vocab_size=z.shape[1], **options)

    def _widen(self, z: Tensor, active: Tensor, rows: int, width: int) -> Tensor:
        """z [active, vocab] as [rows, width]: nothing beyond vocab, and a row that has ended certain of its padding."""
        if len(active) == rows:
            return torch.nn.functional.pad(z, (0, width - z.shape[1]), value=-torch.inf)
        full = z.new_full((rows, width), -torch.inf)
        full[:, self.pad_token_id] = 0.0
        full[active.to(z.device)] = -torch.inf
        full[active.to(z.device), : z.shape[1]] = z
        return full

    def _keep(self, staying: Tensor) -> None:
        """Let the rows that ended leave the batch; `staying` indexes the present ones."""
        for model in self.models:
            model.select_rows(staying.tolist())
            model.set_max_length(int(model.lengths.max()))
        rows = staying.to(self.seeds.device)
        self.seeds, self.mixture = self.seeds[rows], self.mixture.keep(rows)

    def output(self, ids: Tensor) -> GenerateDecoderOnlyOutput:
        """The output of transformers with return_dict_in_generate. The models' caches are not part of it."""
        return GenerateDecoderOnlyOutput(
            sequences=ids,
            scores=tuple(self.scores) if self.keep_scores else None,
            logits=tuple(self.raw) if self.keep_logits else None,
        )


def _blame(place: int, row: int, step: int, models: Sequence[CachedModel], logits: list[Tensor]) -> str:
    bad = [
        model.name
        for model, x in zip(models, logits, strict=True)
        if bool((x[place].isnan() | (x[place] == torch.inf)).any())
    ]
    return blame(row, step, bad)
