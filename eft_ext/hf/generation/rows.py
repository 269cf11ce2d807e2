"""A generation without anything of Python's in its steps: prompts go to the engine, tokens come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import MaxLengthCriteria, MaxTimeCriteria, StoppingCriteriaList

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.requests import InvalidRow, Prompt, Request, TokenOutput
from eft_ext.decoding.speculative.engine import SpeculativeEngine
from eft_ext.decoding.speculative.token_source import Statistics
from eft_ext.hf.generation.draft_draw import DraftingDraw
from eft_ext.hf.generation.draw import MixtureDraw
from eft_ext.hf.generation.mixture import Mixture
from eft_ext.hf.inputs.context import Context
from eft_ext.hf.members import Member
from eft_ext.hf.runners.checks import checked
from eft_ext.hf.runners.distributed import agreed, sharded
from eft_ext.hf.runners.engine_pool import Drafts, EnginePool, fingerprint, new_engine, renew


def budget_of(criteria: StoppingCriteriaList, length: int) -> int:
    """New tokens that the criteria allow a prompt of `length`."""
    limits = [c.max_length - length for c in criteria if isinstance(c, MaxLengthCriteria)]
    return max(1, min(limits, default=2**40))


def ends_of(criteria: StoppingCriteriaList) -> list[int]:
    """Tokens that end a row."""
    tokens = [c.eos_token_id for c in criteria if hasattr(c, "eos_token_id")]
    return sorted({int(token) for given in tokens for token in given.reshape(-1).tolist()})


def stream_rows(
    members: Sequence[Member],
    prompts: Sequence[Prompt],
    mixture: Mixture,
    options: dict[str, Any],
    seeds: Tensor,
    criteria: StoppingCriteriaList,
    *,
    budget: int,
    ahead: int,
    slots: int | None = None,
    loop: bool = False,
    engines: EnginePool | None = None,
    drafts: Drafts | None = None,
    statistics: Statistics | None = None,
    context: Context,
) -> Iterator[list[TokenOutput]]:
    """Yields the news of each step, a job being a row of the prompts.

    Args:
        prompts: ids and mask [rows, length] for each model, in the method's order.
        mixture, options: what the fused step is called with.
        seeds: key of each row.
        criteria: end tokens and a time limit.
        budget: new tokens of a row at most.
        ahead: see `Engine`.
        slots: rows of the batch; the others follow as rows end. All at once where it is not given.
        loop: run it on the device where all models are on one CUDA device.
        engines: idle ones of earlier calls, whose graphs serve again.
        drafts: decode speculatively; `statistics` are then kept up to date.
        context: hears how many new tokens the rows have.

    Raises:
        RuntimeError: a row's logits hold NaN or +inf, or every token is excluded; names the row and the models.
    """
    prompts = [checked(member, *prompt) for member, prompt in zip(members, prompts, strict=True)]
    rows, ends = len(prompts[0][0]), ends_of(criteria)
    slots = min(rows, slots or rows)
    limits = [c.initial_timestamp + c.max_time for c in criteria if isinstance(c, MaxTimeCriteria)]
    jobs = [Request(row, seed, budget) for row, seed in enumerate(seeds.tolist())]
    new = [0] * rows  # tokens of each
    where = members[0].output_device
    together = sharded(members)
    engine, key = None, None
    if engines is not None:  # what an engine cannot change for another call
        how = (ahead, loop, slots, tuple(ends), tuple(options.items()), mixture.scalars, drafts and drafts[1:])
        key = (*how, fingerprint(members))
        engine = engines.acquire(key)
    if engine is None:
        draw = _draw(members, mixture, options, slots, where, drafts)
        engine = new_engine(members, prompts, budget, draw, ends, ahead, loop, drafts)
    else:
        renew(engine, mixture, prompts, budget)
    if isinstance(engine, SpeculativeEngine) and drafts is not None:
        engine.renew(drafts.schedule, Statistics() if statistics is None else statistics)
    try:
        engine.start(jobs[:slots], _some(prompts, 0, slots))
        begun = slots
        for news in engine.run():
            for job, *_ in news:
                new[job] += 1
                context.reached(job, new[job])
            yield news
            if limits and timed_out(min(limits), where if together else None):
                return
            count = min(engine.free, rows - begun)
            if count:
                engine.admit(jobs[begun : begun + count], _some(prompts, begun, begun + count))
                begun += count
        if engines is not None and not engine.draw.changed:
            engines.release(key, engine)
    except InvalidRow as error:
        raise RuntimeError(_blame(error, members, prompts)) from error


def _draw(
    members: Sequence[Member],
    mixture: Mixture,
    options: dict[str, Any],
    slots: int,
    where: torch.device,
    drafts: Drafts | None,
) -> MixtureDraw:
    if drafts is None:
        return MixtureDraw(mixture, options, slots, where, once=sharded(members))
    width = min(member.vocab_size for member in members)
    return DraftingDraw(mixture, options, slots, where, draft=drafts.draft, width=width)


def timed_out(limit: float, shared: torch.device | None = None) -> bool:
    """True if it is later than `limit`; by rank 0's clock where processes generate together on `shared` devices."""
    over = time.time() > limit
    return over if shared is None else bool(agreed(torch.tensor([over], device=shared)))


def _some(prompts: Sequence[Prompt], first: int, last: int) -> list[Prompt]:
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


def collect(
    news_of_steps: Iterable[list[TokenOutput]], rows: int, pad: int, emit: Callable[[Tensor], Any] | None = None
) -> Tensor:
    """All tokens [rows, new] on the CPU, rows that ended early filled with `pad`; `emit` gets each step's [rows]."""
    tokens: list[list[int]] = [[] for _ in range(rows)]
    for news in news_of_steps:
        for job, token, *_ in news:
            tokens[job].append(token)
        if emit is not None:
            said = {job: token for job, token, *_ in news}
            emit(torch.tensor([said.get(row, pad) for row in range(rows)], device="cpu"))
    longest = max(map(len, tokens))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in tokens], device="cpu")


def _blame(error: InvalidRow, members: Sequence[Member], prompts: Sequence[Prompt]) -> str:
    """Names the models that are to blame; reads the row once more where its logits are gone."""
    bad = []
    for k, (member, (ids, mask)) in enumerate(zip(members, prompts, strict=True)):
        if error.logits is not None:
            logits = error.logits[k]
        else:
            prompt = ids[error.job] if mask is None else ids[error.job][mask[error.job].bool()]
            row = torch.cat([prompt, torch.tensor(error.tokens, dtype=prompt.dtype, device=prompt.device)])
            logits = StaticCacheModel(member.model, name=member.name, switch=member.switch()).prefill(row[None])
        if bool((logits.isnan() | (logits == torch.inf)).any()):
            bad.append(member.name)
    return blame(error.job, len(error.tokens), bad)


def blame(row: int, step: int, bad: Sequence[str]) -> str:
    """The message about an invalid row, `bad` being the models whose logits are not finite."""
    why = f"the logits of {' and '.join(bad)} hold NaN or +inf" if bad else "no token is left to choose from"
    return f"row {row}, new token {step}: {why}"
