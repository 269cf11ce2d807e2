"""The plan of a generation: its tier, from eager to a loop on the device, and why it is not a faster one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from eft_ext.decoding import unsupported
from eft_ext.decoding.capture.traced_forward import AFTER, unfit
from eft_ext.decoding.module_utils import parameters_of
from eft_ext.hf.members import Member, kind_of
from eft_ext.hf.runners.caches import cache_argument
from eft_ext.hf.runners.distributed import sharded
from eft_ext.hf.runners.engine_pool import uncaptured
from eft_ext.ops.backends import native_loop

TIERS = {  # from the slowest to the fastest
    "eager": "transformers' own caches",
    "static": "static caches, Python after every step",
    "async": "static caches, the host behind the device",
    "device_loop": "static caches, the loop on the device",
}
OTHER_LOOP = "transformers"  # not a tier: its own loop over the mixture's forward pass
ASKED = "it was asked for"
NO_CACHE = "use_cache is off"
LAG = 4  # steps that a CUDA device may be ahead of the host
_BETWEEN = ("eft_ext", "transformers", "torch")  # a call and its plan
_WARNED: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class DecodePlan:
    """The tier of a generation, and why it is not a faster one.

    Attributes:
        tier: "eager", "static", "async" or "device_loop"; "transformers" for its own loop over one forward pass.
        because: the reason why no faster tier is used; empty if there is none.
        per_step: True if processors, criteria or scores of transformers are computed in each step.
        models: how each model runs, by name.
        refills: True if the next prompts can take the places of rows that have ended.
        speculation: with `speculate`, how drafts are made, or why there are none.
    """

    tier: str
    because: str
    per_step: bool
    models: dict[str, str]
    refills: bool = True
    speculation: str = ""

    def __str__(self) -> str:
        lines = [f"{self.tier}: {TIERS.get(self.tier, 'its own loop, over one forward pass of all models')}"]
        lines += [f"  because {self.because}"] * bool(self.because)
        lines += [f"  speculate: {self.speculation}"] * bool(self.speculation)
        return "\n".join(lines + [f"  {name}: {said}" for name, said in self.models.items()])


def plan_decoding(
    members: tuple[Member, ...],
    criteria: Sequence[Any],
    *,
    use_cache: bool,
    processors: bool,
    records: bool,
    streamer: bool,
    tier: str | int | None = None,
    detailed: bool = False,
) -> DecodePlan:
    """The plan for a call.

    Args:
        criteria: those that look at every token.
        processors, records, streamer: whether logits processors run that are not part of the fused step, whether
            scores or logits are returned, and whether tokens are streamed.
        tier: no faster one than this; None is "async".
        detailed: say how each model's passes run.

    Raises:
        ValueError: an unknown `tier`.
    """
    highest = "async" if tier is None else _name(tier)
    reasons = {member.name: unsupported(member.model) for member in members}
    kinds = {member.name: kind_of(member) for member in members}
    eager = not use_cache or highest == "eager" or any(reasons.values())
    cached = "could be on a static cache" if eager else "on a static cache"
    models = {name: f"{kinds[name]} {why or cached}" for name, why in reasons.items()}
    if detailed and not eager:
        models = {m.name: f"{models[m.name]}, {_steps(m)}" for m in members}
    if eager:
        unfit = "; ".join(_grouped({name: models[name] for name, why in reasons.items() if why}))
        return DecodePlan("eager", (unfit or ASKED) if use_cache else NO_CACHE, True, models, refills=False)
    other = next(iter(criteria), None)
    if processors or records or other is not None:
        why = "logits processors run in every step" if processors else "scores are returned in every step"
        why = why if processors or records else f"{type(other).__name__} looks at every step"
        return DecodePlan("static", why, True, models, refills=not (processors or records))
    if highest == "static":  # before what also keeps to that, since rounds of drafts go by what was asked for
        return DecodePlan("static", ASKED, False, models)
    if streamer:
        return DecodePlan("static", "every step is streamed", False, models)
    if sharded(members) or len({p.device for p in parameters_of(members[0].model)}) > 1:
        return DecodePlan("static", "the large model is spread over devices", False, models)
    if highest == "async":
        return DecodePlan("async", "", False, models)
    if not native_loop.while_supported():
        return DecodePlan("async", "there are no WHILE nodes here (CUDA 12.4 in build and driver)", False, models)
    said = next((f"{member.name} {reason}" for member in members if (reason := uncaptured(member.model))), None)
    if said is not None:
        return DecodePlan("async", said, False, models)
    return DecodePlan("device_loop", "", False, models)


def _name(tier: str | int) -> str:
    """The name of a tier, which may be given by its old number."""
    names = list(TIERS)
    if isinstance(tier, int) and not isinstance(tier, bool) and 0 <= tier < len(names):
        message = f"tier: {tier} is now called {names[tier]!r}; numbers go with 0.2"
        warnings.warn(message, DeprecationWarning, stacklevel=_outside())
        return names[tier]
    if not isinstance(tier, str) or tier not in names:
        raise ValueError(f"tier: expected one of {', '.join(names)}, got {tier!r}")
    return tier


def _outside() -> int:
    """The stack level of whoever called us from outside, counted from the caller."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        frame, level = frame.f_back, level + 1
    return level


def _steps(member: Member) -> str:
    """Says how the forward passes of a model on static caches are run."""
    if any(p.is_cuda for p in parameters_of(member.model)):
        why = uncaptured(member.model)
        return "captured in CUDA graphs if all models are on one device" if why is None else f"run by Python: it {why}"
    why = unfit(member.model) or uncaptured(member.model)
    return f"traced after {AFTER} steps" if why is None else f"run by Python: it {why}"


def warn(plan: DecodePlan, members: tuple[Member, ...]) -> None:
    """Says once for each model why it runs on the eager tier."""
    lead = members[0].model
    if plan.because == NO_CACHE and getattr(lead.generation_config, "use_cache", True) is False:
        said = f"{members[0].name}: {kind_of(members[0])} has use_cache=False in its own generation_config"
        warnings.warn(f"{said}, so that every step reads all again; pass use_cache=True", stacklevel=2)
    if plan.tier != "eager" or plan.because in (NO_CACHE, ASKED):
        return
    slower: dict[str, str] = {}
    for member in members:
        why = unsupported(member.model)
        if why is None or member.model in _WARNED or cache_argument(member) is None:  # of that, the runner warns
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


def lag_of(plan: DecodePlan, device: torch.device) -> int:
    """Steps that the device may be ahead of the host; 0 on a CPU, which runs synchronously."""
    return LAG if plan.tier in ("async", "device_loop") and device.type == "cuda" else 0
