"""The training runs, recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from eft_ext.demo.dynamics.data import Preference, as_pairs, batches
from eft_ext.dynamics import DPO, SFT, ProbeSet, Responses, extend_for_sft, track
from eft_ext.dynamics.forward import response_logits


@dataclass(frozen=True)
class StudyPlan:
    """Every number of the study. Extended SFT takes twice the steps: as many epochs of twice the rows."""

    preferences: int = 1901  # all tuning questions
    probes: int = 24
    sft_steps: int = 300
    sft_rows: int = 32
    sft_lr: float = 3e-4
    dpo_steps: int = 200
    dpo_rows: int = 16
    dpo_lr: float = 1e-4
    beta: float = 0.1
    sft_records: tuple[int, ...] = (5, 10, 20, 30, 45, 60, 80, 100, 150, 200)
    dpo_records: tuple[int, ...] = (5, 10, 20, 40, 60, 80, 100, 120, 160)
    questions: int = 200


QUICK = StudyPlan(
    preferences=24,
    probes=3,
    sft_steps=4,
    sft_rows=4,
    dpo_steps=3,
    dpo_rows=2,
    sft_records=(2,),
    dpo_records=(2,),
    questions=3,
)


def run_sft(
    base: Any,
    tokenizer: Any,
    rows: list[Preference],
    probes: ProbeSet,
    path: Path,
    plan: StudyPlan,
    seed: int,
    extend: bool,
) -> Any:
    """SFT of a copy of `base` on the chosen responses, or on chosen and rejected ones."""
    if extend:
        plain = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in rows]
        texts = [(row["prompt"], row["completion"]) for row in extend_for_sft(plain)]
    else:
        texts = [(p.prompt, p.chosen) for p in rows]
    steps = plan.sft_steps * (1 + extend)

    def loss(model: Any, batch: list[tuple[str, str]]) -> torch.Tensor:
        update = Responses.from_text(tokenizer, batch)
        return SFT()(response_logits(model, update), update)

    records = tuple(step * (1 + extend) for step in plan.sft_records)
    updates = islice(batches(texts, plan.sft_rows, seed), steps)
    return _train(base, updates, loss, plan.sft_lr, records, probes, tokenizer, path)


def run_dpo(
    start: Any, tokenizer: Any, rows: list[Preference], probes: ProbeSet, path: Path, plan: StudyPlan, seed: int
) -> Any:
    """DPO of a copy of `start`, which is also the reference."""

    def loss(model: Any, batch: list[Preference]) -> torch.Tensor:
        pairs = as_pairs(tokenizer, batch).with_reference(start, 2 * len(batch))
        return DPO(plan.beta)(response_logits(model, pairs.responses), pairs)

    updates = islice(batches(rows, plan.dpo_rows, seed), plan.dpo_steps)
    return _train(start, updates, loss, plan.dpo_lr, plan.dpo_records, probes, tokenizer, path)


def _train(
    start: Any,
    updates: Any,
    loss: Callable[[Any, Any], torch.Tensor],
    lr: float,
    records: tuple[int, ...],
    probes: ProbeSet,
    tokenizer: Any,
    path: Path,
) -> Any:
    model = copy.deepcopy(start)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    for batch in track(updates, model, probes, tokenizer, path, every=records, batch_size=64, overwrite=True):
        loss(model, batch).backward()
        optimiser.step()
        optimiser.zero_grad()
    return model
