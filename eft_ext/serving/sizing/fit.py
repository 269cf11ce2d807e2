"""The fewest GPUs for a replica, and the tokens in its cache."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from eft_ext.hf.loading.memory import readable
from eft_ext.serving.sizing.kv_cache import BLOCK, Cache, cache, layers_of
from eft_ext.serving.sizing.reserve import SMALL, Batch, feed_forward, reserve
from eft_ext.serving.sizing.result import Sizing
from eft_ext.serving.sizing.weights import Weights, rank_bytes
from eft_ext.serving.vllm.checks import check_heads

ROOM = 1.1  # full-length requests for which a replica is chosen, since the reserve is an estimate
STEPS = 2  # that run at once: vLLM schedules one while another runs
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Model:
    """One model with the weights that `weights` finds."""

    name: str
    config: Any
    weights: Weights


@dataclass(frozen=True)
class Load:
    """All that an engine holds.

    Args:
        models: those that are mixed, and then one that drafts if `drafts` is not 0.
        drafts: tokens a step.
        batch: the largest step.
        size, kv_size: bytes of an activation, and of a number in the cache.
    """

    models: Sequence[Model]
    drafts: int
    batch: Batch
    size: int
    kv_size: int

    def cache(self, ranks: int) -> Cache:
        """The cache of one of so many GPUs."""
        return cache([layer for each in self.models for layer in layers_of(each.config, self.kv_size, ranks)])

    def reserve(self, ranks: int) -> int:
        """Bytes beside weights and cache on one of so many GPUs."""
        mixed = len(self.models) - bool(self.drafts)
        return reserve([each.config for each in self.models], mixed, self.batch, self.size, ranks, self.drafts)


def fit(sizing: Sizing, load: Load, tensor_parallel: int | None) -> Sizing:
    """The suggestion for the sizing's GPUs.

    Args:
        tensor_parallel: GPUs of a replica, if they are given.
    """
    assert sizing.gpus is not None
    counts = [tensor_parallel] if tensor_parallel else _counts(load.models, sizing.gpus.count)
    plans = [_on(sizing, load, ranks) for ranks in counts]
    for room in (ROOM, 1.0):
        for plan in plans:
            if plan.requests >= room:
                return _chosen(plan, load.models, given=tensor_parallel is not None)
    return _none(plans[-1], load)


def _counts(models: Sequence[Model], most: int) -> list[int]:
    """Numbers of GPUs that can share all models' heads and feed-forward layers."""
    found, heads = [], (each.config.num_attention_heads for each in models)
    for ranks in range(1, min(most, *heads) + 1):  # no more can share the heads
        try:
            for each in models:
                check_heads(each.name, each.config, ranks)
        except ValueError:
            continue
        if all(feed_forward(each.config) % ranks == 0 for each in models):
            found.append(ranks)
    return found


def _on(sizing: Sizing, load: Load, ranks: int) -> Sizing:
    """The sizing of a replica on so many GPUs, which may be too few."""
    assert sizing.gpus is not None
    budget = int(sizing.gpus.bytes * sizing.utilization)
    held = sum(rank_bytes(each.config, each.weights, ranks) for each in load.models)
    beside = load.reserve(ranks)
    kv, own = budget - held - beside, load.cache(ranks)
    blocks = max(0, kv // own.block_bytes - 1)  # vLLM keeps one for padding
    requests = blocks / own.blocks(sizing.max_model_len, STEPS * load.batch.tokens)
    found = replace(sizing, budget=budget, weights=held, reserve=beside, kv=max(0, kv))
    tokens, replicas = int(requests * sizing.max_model_len), sizing.gpus.count // ranks
    return replace(found, tp=ranks, dp=replicas, tokens=tokens, requests=requests)


def _chosen(plan: Sizing, models: Sequence[Model], *, given: bool) -> Sizing:
    """The plan with its reason, and with one replica where models have experts, since vLLM takes no more here."""
    count = plan.gpus.count if plan.gpus else 0
    held = f"all models and a request of {plan.max_model_len:,} tokens"
    few = f"{plan.tp} GPUs are the fewest that hold" if plan.tp > 1 else "One GPU holds"
    why = f"As given, {plan.tp} of {count} GPUs hold {held}" if given else f"{few} {held}"
    why += "." if plan.requests >= ROOM else ", with nothing to spare."
    notes = []
    if plan.dp > 1 and any(getattr(each.config, name, None) for each in models for name in _EXPERTS):
        notes.append(f"Models with experts run without data parallelism: start {plan.dp} servers.")
        plan = replace(plan, dp=1)
    elif left := count - plan.tp * plan.dp:
        notes.append(f"{left} of {count} GPUs {'is' if left == 1 else 'are'} not used.")
    return replace(plan, why=why, notes=tuple(notes))


def _none(plan: Sizing, load: Load) -> Sizing:
    """The most GPUs' plan, which is too little, with what would fit there."""
    small = Batch(min(SMALL.tokens, load.batch.tokens), min(SMALL.requests, load.batch.requests))
    fewer = f"--max-num-seqs {small.requests} --max-num-batched-tokens {small.tokens}"
    ways = {"": load, fewer: replace(load, batch=small)}
    if load.kv_size > 1:
        ways |= {f"{way} --kv-cache-dtype fp8".strip(): replace(each, kv_size=1) for way, each in ways.items()}
    notes = []
    for way, each in ways.items():
        if length := _longest(plan, each):
            notes.append(f"fits: --max-model-len {length} {way}".rstrip())
    notes.append("More GPUs or quantised weights help.")
    own = load.cache(plan.tp)
    one = own.block_bytes * own.blocks(plan.max_model_len, STEPS * load.batch.tokens)
    why = (
        f"Nothing fits: of {readable(plan.budget)} a GPU, weights take {readable(plan.weights)}, the reserve "
        f"{readable(plan.reserve)}, a request of {plan.max_model_len:,} tokens {readable(one)}."
    )
    return replace(plan, tp=0, dp=0, tokens=0, requests=0.0, why=why, notes=tuple(notes))


def _longest(plan: Sizing, load: Load) -> int:
    """The longest request that fits with some room, at most `max_model_len`; 0 where none does."""
    own, flight = load.cache(plan.tp), STEPS * load.batch.tokens
    blocks = int(((plan.budget - plan.weights - load.reserve(plan.tp)) // own.block_bytes - 1) / ROOM)
    fits = bisect_right(range(1, plan.max_model_len + 1), blocks, key=lambda tokens: own.blocks(tokens, flight))
    return fits if fits == plan.max_model_len else fits // BLOCK * BLOCK
