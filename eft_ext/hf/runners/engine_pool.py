"""EnginePool for a trio of models: made with their caches and graphs, and kept for the next call."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import torch

from eft_ext.decoding import StaticCacheModel
from eft_ext.decoding.cached_model import CachedModel
from eft_ext.decoding.capture.cuda_device import CudaDevice
from eft_ext.decoding.capture.device_loop import STEPS, DeviceLoops
from eft_ext.decoding.capture.graphs import Graphs, bucket
from eft_ext.decoding.engine import Engine
from eft_ext.decoding.module_utils import autocast_of, hooks_of, modules_of, parameters_of
from eft_ext.decoding.requests import Prompt
from eft_ext.decoding.sampler import Sampler
from eft_ext.decoding.side_by_side import SideBySide, is_worth
from eft_ext.decoding.speculative.draft_length import DraftSchedule
from eft_ext.decoding.speculative.engine import SpeculativeEngine
from eft_ext.decoding.static_cache.joint import JointPass
from eft_ext.hf.adapters import is_peft, lock_of
from eft_ext.hf.members import Member
from eft_ext.hf.runners.dynamic_cache_model import DynamicCacheModel
from eft_ext.hf.runners.joint import JointSwitch, groups_of

FIRST = 1024  # new tokens that room is made for at once; more as they come


class Drafts(NamedTuple):
    """Speculation in the engine: which model proposes, and how many tokens a round."""

    schedule: DraftSchedule
    draft_model: int
    max_draft_tokens: int


def new_engine(
    members: Sequence[Member],
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    sampler: Sampler,
    eos_token_ids: list[int],
    *,
    tier: str,
    lag: int,
    use_cache: bool = True,
    captured: bool = True,
    drafts: Drafts | None = None,
) -> Engine:
    """An engine for these models, captured on their device where they share one.

    Args:
        max_new_tokens, eos_token_ids: of a row at most, and what ends it.
        tier: "eager" runs the models from transformers' caches, "device_loop" the loop on the device.
        lag: see `Engine`.
        captured: whether a step may be; False where Python runs in it.
        drafts: its steps are rounds of speculation.
    """
    how: dict[str, Any] = {"lag": lag}
    models: list[CachedModel] = []
    if tier == "eager":
        models += [DynamicCacheModel(member, use_cache=use_cache) for member in members]
    else:
        new = min(max_new_tokens + (drafts.max_draft_tokens if drafts else 0), FIRST)
        made: dict[int, CachedModel] = {}
        for places in groups_of(members) if drafts is None else ():  # with drafts one of them runs alone
            some = [members[k] for k in places]
            room = max(prompts[k][0].shape[1] for k in places) + new
            switches = [member.switch() for member in some]
            one = JointPass(some[0].model, [m.name for m in some], switches, JointSwitch(some), room)
            how.setdefault("joint", []).append(one)
            made |= zip(places, one.models, strict=True)
        for k, member in enumerate(members):
            if k not in made:
                own: dict[str, Any] = {"name": member.name, "switch": member.switch()}
                own["capacity"] = prompts[k][0].shape[1] + new
                made[k] = StaticCacheModel(member.model, checked=False, **own)  # the plan has asked
        models = [made[k] for k in range(len(members))]
        device = graph_device(members) if captured else None
        if device is not None:
            loop = tier == "device_loop" and drafts is None
            cuda = CudaDevice(device, keep_graph=loop)
            how |= {"bucket": bucket, "parallel": cuda.parallel, "ring": STEPS if loop else 0}
            how["launcher"] = partial(DeviceLoops if loop else Graphs, device=cuda)
        elif (lanes := _lanes(models, how.get("joint", ()))) is not None:
            how["parallel"] = lanes
    if drafts is None:
        return Engine(models, sampler, eos_token_ids, **how)
    how |= {"schedule": drafts.schedule, "max_draft_tokens": drafts.max_draft_tokens}
    return SpeculativeEngine(models, sampler, eos_token_ids, **how)


def _lanes(models: Sequence[Any], joint: Sequence[JointPass]) -> SideBySide | None:
    """The lanes for the passes of a step; None where one after another is as fast, or all that is safe."""
    passes: dict[int, Any] = {id(one): one for one in joint}
    joined = {id(model) for one in joint for model in one.models}
    passes |= {id(model): model for model in models if id(model) not in joined}
    own = [one.models[0] if isinstance(one, JointPass) else one for one in passes.values()]
    weights = [{id(p): p for p in parameters_of(one.model)}.values() for one in own]
    if (
        len({id(one.model) for one in own}) < len(own)  # the state of its adapters is one
        or not all(one.is_plain for one in own)  # others call Python of the user's, which wants its own thread
        or any(one.model.training for one in own)
        or any(p.device.type != "cpu" for each in weights for p in each)
        or torch.is_autocast_enabled("cpu")
    ):
        return None
    sizes, threads = [sum(p.nbytes for p in each) for each in weights], torch.get_num_threads()
    return SideBySide(list(passes.values()), sizes, threads) if is_worth(sizes, threads) else None


def renew(engine: Engine, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
    """An engine of an earlier call, before it starts with other prompts."""
    for model, (ids, _) in zip(engine.models, prompts, strict=True):
        assert isinstance(model, StaticCacheModel)
        model.expand(ids.shape[1] + min(max_new_tokens, FIRST))


def pool_key(members: Sequence[Member], options: Sequence[Any], scalars: Sequence[Any], drafts: Drafts | None) -> Any:
    """All that an engine cannot change for another call."""
    return (*options, *scalars, drafts and drafts[1:], fingerprint(members))


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
    states = []
    for model in (member.model for member in members):
        with lock_of(model) if is_peft(model) else nullcontext():  # another thread may have its adapters switched
            states.append((autocast_of(model), *map(_state, modules_of(model))))
    return hash(tuple(states))


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
