"""A generation without anything of Python's in its steps: prompts go to the engine, tokens come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import MaxLengthCriteria, MaxTimeCriteria, StoppingCriteriaList

from eft_ext.decoding import Feeder
from eft_ext.decoding.engine import Engine, InvalidRow, Job, Prompt
from eft_ext.hf.draw import MixtureDraw
from eft_ext.hf.members import AdapterSwitch, Member
from eft_ext.hf.mixture import Mixture
from eft_ext.hf.runner import checked

FIRST = 1024  # new tokens that room is made for at once; more as they come


def feeders(members: Sequence[Member], prompts: Sequence[Prompt], budget: int) -> list[Feeder]:
    """One for each model, with room for its prompts and `budget` new tokens."""
    return [
        Feeder(
            member.model,
            name=member.name,
            capacity=ids.shape[1] + min(budget, FIRST),
            switch=AdapterSwitch(member),
        )
        for member, (ids, _) in zip(members, prompts, strict=True)
    ]


def budget_of(criteria: StoppingCriteriaList, length: int) -> int:
    """New tokens that the criteria allow a prompt of `length`."""
    limits = [c.max_length - length for c in criteria if isinstance(c, MaxLengthCriteria)]
    return max(1, min(limits, default=2**40))


def ends_of(criteria: StoppingCriteriaList) -> list[int]:
    """Tokens that end a row."""
    tokens = [c.eos_token_id for c in criteria if hasattr(c, "eos_token_id")]
    return sorted({int(token) for given in tokens for token in given.reshape(-1).tolist()})


def decode_rows(
    members: Sequence[Member],
    prompts: Sequence[Prompt],
    mixture: Mixture,
    options: dict[str, Any],
    seeds: Tensor,
    criteria: StoppingCriteriaList,
    *,
    pad: int,
    ahead: int,
    emit: Callable[[Tensor], Any] | None = None,
) -> Tensor:
    """New tokens [rows, new] on the CPU, rows that ended early filled with `pad`.

    Args:
        prompts: ids and mask [rows, length] for each model, the large one's first.
        mixture, options: what the fused step is called with.
        seeds: key of each row.
        criteria: lengths, end tokens and a time limit.
        ahead: see `Engine`.
        emit: receives each step's tokens [rows].

    Raises:
        RuntimeError: a row's logits hold NaN or +inf, or every token is excluded; names the row and the models.
    """
    prompts = [checked(member, *prompt) for member, prompt in zip(members, prompts, strict=True)]
    rows, budget = prompts[0][0].shape[0], budget_of(criteria, prompts[0][0].shape[1])
    limits = [c.initial_timestamp + c.max_time for c in criteria if isinstance(c, MaxTimeCriteria)]
    readers = feeders(members, prompts, budget)
    jobs = [Job(row, seed, budget) for row, seed in enumerate(seeds.tolist())]
    device = members[0].model.get_output_embeddings().weight.device
    engine = Engine(readers, MixtureDraw(mixture, options, rows, device), ends_of(criteria), ahead=ahead)
    tokens: list[list[int]] = [[] for _ in range(rows)]
    try:
        engine.start(jobs, prompts)
        for news in engine.run():
            for job, token, _ in news:
                tokens[job].append(token)
            if emit is not None:
                said = {job: token for job, token, _ in news}
                emit(torch.tensor([said.get(row, pad) for row in range(rows)], device="cpu"))
            if limits and time.time() > min(limits):
                break
    except InvalidRow as error:
        raise RuntimeError(_blame(error, members, prompts)) from error
    longest = max(map(len, tokens))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in tokens], device="cpu")


def _blame(error: InvalidRow, members: Sequence[Member], prompts: Sequence[Prompt]) -> str:
    """Which models are to blame; reads the row once more where its logits are gone."""
    bad = []
    for k, (member, (ids, mask)) in enumerate(zip(members, prompts, strict=True)):
        if error.logits is not None:
            logits = error.logits[k]
        else:
            prompt = ids[error.job] if mask is None else ids[error.job][mask[error.job].bool()]
            row = torch.cat([prompt, torch.tensor(error.tokens, dtype=prompt.dtype, device=prompt.device)])
            logits = Feeder(member.model, name=member.name, switch=AdapterSwitch(member)).prefill(row[None])
        if bool((logits.isnan() | (logits == torch.inf)).any()):
            bad.append(member.name)
    return blame(error.job, len(error.tokens), bad)


def blame(row: int, step: int, bad: Sequence[str]) -> str:
    """What is said of an invalid row, `bad` being the models whose logits are not finite."""
    why = f"the logits of {' and '.join(bad)} hold NaN or +inf" if bad else "no token is left to choose from"
    return f"row {row}, new token {step}: {why}"
