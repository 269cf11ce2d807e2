"""EnginePool for a trio of models: made with their caches and graphs, and kept for the next call."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple, cast

import torch

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.capture.cuda_device import CudaDevice
from eft_ext.decoding.capture.device_loop import STEPS, loops_on
from eft_ext.decoding.capture.graphs import bucket, graphs_on
from eft_ext.decoding.engine import Engine
from eft_ext.decoding.module_utils import autocast_of, hooks_of, modules_of, parameters_of
from eft_ext.decoding.requests import Prompt
from eft_ext.decoding.speculative.draft_length import Schedule
from eft_ext.decoding.speculative.engine import SpeculativeEngine
from eft_ext.hf.generation.draft_draw import DraftingDraw
from eft_ext.hf.generation.draw import MixtureDraw
from eft_ext.hf.generation.mixture import Mixture
from eft_ext.hf.members import Member

FIRST = 1024  # new tokens that room is made for at once; more as they come


def feeders(members: Sequence[Member], prompts: Sequence[Prompt], budget: int) -> list[StaticCacheModel]:
    """One for each model, with room for its prompts and `budget` new tokens."""
    return [
        StaticCacheModel(
            member.model,
            name=member.name,
            capacity=ids.shape[1] + min(budget, FIRST),
            checked=False,  # the plan has asked
            switch=member.switch(),
        )
        for member, (ids, _) in zip(members, prompts, strict=True)
    ]


class Drafts(NamedTuple):
    """Speculation in the engine: which model proposes, and how many tokens a round."""

    schedule: Schedule
    draft: int
    most: int


def new_engine(
    members: Sequence[Member],
    prompts: Sequence[Prompt],
    budget: int,
    draw: MixtureDraw,
    ends: list[int],
    ahead: int,
    loop: bool,
    drafts: Drafts | None = None,
) -> Engine:
    """An engine for these models, captured on their device where they share one.

    Args:
        budget, ends: new tokens of a row at most, and tokens that end it.
        ahead: see `Engine`.
        loop: run it on the device.
        drafts: its steps are rounds of speculation.
    """
    device = graph_device(members)
    readers = feeders(members, prompts, budget + (drafts.most if drafts else 0))
    how: dict[str, Any] = {"ahead": ahead}
    if device is not None:
        cuda = CudaDevice(device, keep_graph=loop and not drafts)
        how |= {"bucket": bucket, "parallel": cuda.parallel, "stepper": graphs_on(cuda)}
        if loop and not drafts:
            how |= {"stepper": loops_on(cuda), "ring": STEPS}
    if drafts is None:
        return Engine(readers, draw, ends, **how)
    rounds: dict[str, Any] = {"schedule": drafts.schedule, "proposer": drafts.draft, "most": drafts.most}
    return SpeculativeEngine(readers, cast(DraftingDraw, draw), ends, **rounds, **how)


def renew(engine: Engine, mixture: Mixture, prompts: Sequence[Prompt], budget: int) -> None:
    """An engine of an earlier call, before it starts with another mixture and other prompts."""
    engine.draw.renew(mixture)
    for feeder, (ids, _) in zip(engine.feeders, prompts, strict=True):
        feeder.expand(ids.shape[1] + min(budget, FIRST))


class EnginePool:
    """Engines that earlier calls have left, with their caches and graphs; on CUDA, where capturing takes its time."""

    def __init__(self, limit: int = 2) -> None:
        self._idle: dict[Any, Engine] = {}
        self._lock = Lock()  # threads may generate with one model at a time
        self._limit = limit

    def __reduce__(self) -> tuple[Any, ...]:
        return EnginePool, (self._limit,)  # a copy has other models, or none of this process's graphs

    def acquire(self, key: Any) -> Engine | None:
        """An engine that suits, which is this caller's until it gives it back."""
        with self._lock:
            return self._idle.pop(key, None)

    def release(self, key: Any, engine: Engine) -> None:
        """After a run that ended as it should; the oldest ones make room."""
        with self._lock:
            self._idle[key] = engine
            while len(self._idle) > self._limit:
                del self._idle[next(iter(self._idle))]

    def clear(self) -> None:
        """Frees their memory."""
        with self._lock:
            self._idle.clear()


def fingerprint(members: Sequence[Member]) -> int:
    """Changes with what a graph holds of the models: addresses of weights, hooks, modes, the state of adapters."""
    models = [member.model for member in members]
    return hash(tuple((autocast_of(model), *map(_state, modules_of(model))) for model in models))


def _state(module: Any) -> tuple[Any, ...]:
    tensors = [*module._parameters.values(), *module._buffers.values()]
    adapters = (getattr(module, name, None) for name in ("_disable_adapters", "_active_adapter", "merged_adapters"))
    return (
        module.training,
        module.__dict__.get("forward"),
        *((t.data_ptr(), t.dtype, t.shape) for t in tensors if t is not None),
        *module._forward_hooks,
        *module._forward_pre_hooks,
        *map(str, (*adapters, getattr(module, "scaling", None))),
    )


def uncaptured(model: Any) -> str | None:
    """Why a CUDA graph would not do what the model does, the end of a sentence; None where it would."""
    if autocast_of(model) is not None:
        return "is under autocast"  # whose copies of the weights are freed when its context ends
    return hooks_of(model)


def graph_device(members: Sequence[Member]) -> torch.device | None:
    """The CUDA device that all models are on, and nothing else; None where their steps cannot be captured."""
    if any(uncaptured(member.model) for member in members):
        return None
    devices = {p.device for member in members for p in parameters_of(member.model)}
    return next(iter(devices)) if len(devices) == 1 and next(iter(devices)).type == "cuda" else None
