"""The tiers of a generation: eager, or on static caches with Python in every step, or running ahead of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import nn
from transformers import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria, StoppingCriteriaList

from eft_ext.decoding import unsupported
from eft_ext.decoding.capture.traced_forward import AFTER, unfit
from eft_ext.decoding.module_utils import parameters_of
from eft_ext.hf.members import Member, kind_of
from eft_ext.hf.runners.caches import cache_argument
from eft_ext.hf.runners.distributed import sharded
from eft_ext.hf.runners.engine_pool import uncaptured
from eft_ext.ops.backends import native_loop

TIERS = {
    0: "eager, with transformers' own caches",
    1: "static caches, Python after every step",
    2: "static caches, the host behind the device",
    3: "static caches, the loop on the device",
}
ASKED = "it was asked for"
NO_CACHE = "use_cache is off"
AHEAD = 4  # steps that a CUDA device may be ahead of the host
_WARNED: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class DecodePlan:
    """The tier of a generation, and why it is not a faster one.

    Attributes:
        tier: a key of `TIERS`.
        because: what keeps it from the next tier; empty where nothing does.
        loop: whether transformers' processors, criteria or scores are served in each step.
        models: what is special about each model, by name.
        speculation: with `speculate`, how drafts are made, or why there are none.
    """

    tier: int
    because: str
    loop: bool
    models: dict[str, str]
    speculation: str = ""

    def __str__(self) -> str:
        lines = [f"tier {self.tier}: {TIERS[self.tier]}"]
        lines += [f"  because {self.because}"] * bool(self.because)
        lines += [f"  speculate: {self.speculation}"] * bool(self.speculation)
        return "\n".join(lines + [f"  {name}: {said}" for name, said in self.models.items()])


def choose(
    members: tuple[Member, ...],
    criteria: StoppingCriteriaList,
    *,
    use_cache: bool,
    processors: bool,
    records: bool,
    streamer: bool,
    weights: str = "",
    highest: int | None = None,
    detailed: bool = False,
) -> DecodePlan:
    """The plan for a call.

    Args:
        processors, records, streamer: whether logits processors run that are not part of the fused step, whether
            scores or logits are returned, and whether tokens are streamed.
        weights: what keeps them from being fixed for all steps, if anything does.
        highest: no tier above this one.

    Raises:
        ValueError: `highest` is no tier.
        detailed: say how each model's passes run.
    """
    if highest is not None and (isinstance(highest, bool) or highest not in TIERS):
        raise ValueError(f"tier: expected one of {', '.join(map(str, TIERS))}, got {highest!r}")
    reasons = {member.name: unsupported(member.model) for member in members}
    kinds = {member.name: kind_of(member) for member in members}
    models = {name: f"{kinds[name]} {why or 'on a static cache'}" for name, why in reasons.items()}
    if detailed:
        models |= {m.name: f"{models[m.name]}, {_steps(m)}" for m in members if reasons[m.name] is None}
    static = _grouped({name: models[name] for name, why in reasons.items() if why})
    if not use_cache:
        return DecodePlan(0, NO_CACHE, True, models)
    if static:
        return DecodePlan(0, "; ".join(static), True, models)
    if highest == 0:
        return DecodePlan(0, ASKED, True, models)
    other = next((c for c in criteria if type(c) not in (EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria)), None)
    if processors or records or other is not None:
        why = "logits processors run" if processors else "scores are returned" if records else type(other).__name__
        return DecodePlan(1, f"{why} in every step" if other is None else f"{why} looks at every step", True, models)
    if weights:
        return DecodePlan(1, weights, True, models)
    if highest == 1:  # before what also keeps to tier 1, since rounds of drafts go by what was asked for
        return DecodePlan(1, ASKED, False, models)
    if streamer:
        return DecodePlan(1, "every step is streamed", False, models)
    if sharded(members) or len({p.device for p in parameters_of(members[0].model)}) > 1:
        return DecodePlan(1, "the large model is spread over devices", False, models)
    if highest is None or highest < 3:
        return DecodePlan(2, "", False, models)
    if not native_loop.while_supported():
        return DecodePlan(2, "there are no WHILE nodes here (CUDA 12.4 in build and driver)", False, models)
    said = next((f"{member.name} {reason}" for member in members if (reason := uncaptured(member.model))), None)
    if said is not None:
        return DecodePlan(2, said, False, models)
    return DecodePlan(3, "", False, models)


def _steps(member: Member) -> str:
    """Says how the forward passes of a model on static caches are run."""
    if any(p.is_cuda for p in parameters_of(member.model)):
        why = uncaptured(member.model)
        return "captured in CUDA graphs if all models are on one device" if why is None else f"run by Python: it {why}"
    why = unfit(member.model) or uncaptured(member.model)
    return f"recorded after {AFTER} steps" if why is None else f"run by Python: it {why}"


def warn(plan: DecodePlan, members: tuple[Member, ...]) -> None:
    """Says once for each model why it runs on the eager tier."""
    lead = members[0].model
    if plan.because == NO_CACHE and not getattr(lead.generation_config, "use_cache", True):
        said = f"{members[0].name}: {kind_of(members[0])} has use_cache=False in its own generation_config"
        warnings.warn(f"{said}, so that every step reads all again; pass use_cache=True", stacklevel=2)
    if plan.tier or plan.because in (NO_CACHE, ASKED):
        return
    slower: dict[str, str] = {}
    for member in members:
        why = unsupported(member.model)
        if why is None or member.model in _WARNED or cache_argument(member) is None:  # of that, DynamicCacheModel warns
            continue
        slower[member.name] = f"{kind_of(member)} {why}"
    _WARNED.update(member.model for member in members if member.name in slower)
    for line in _grouped(slower):
        warnings.warn(f"{line}; all models run on the eager tier", stacklevel=2)


def _grouped(said: Mapping[str, str]) -> list[str]:
    """Gathers what is said of models by name: a line for all of which the same is said."""
    names: dict[str, list[str]] = {}
    for name, text in said.items():
        names.setdefault(text, []).append(name)
    return [f"{', '.join(of)}: {text}" for text, of in names.items()]


def ahead(device: torch.device, plan: DecodePlan) -> int:
    """Steps that the device may be ahead of the host; a CPU does what it is told at once."""
    return AHEAD if plan.tier >= 2 and device.type == "cuda" else 0
