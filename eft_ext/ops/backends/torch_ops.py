"""The operations as operators of `torch.library`, for tracing: `torch.compile`, `torch.export`, fake tensors.

Eager calls go around them (`tracing.needs_operator`): an operator costs four microseconds a call, the binding a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.ops.backends.allocate import new_details, new_logits, new_tokens, new_verified
from eft_ext.ops.backends.flat_params import (
    DRAFT_SCHEMA,
    MIX_SCHEMA,
    NUM_DRAFT,
    SAMPLING_SCHEMA,
    flatten,
    flatten_draft,
    unflatten,
    unflatten_draft,
)
from eft_ext.ops.backends.registry import choose_backend
from eft_ext.ops.params import DraftParams, MixParams, SamplingParams, ScoreParams
from eft_ext.ops.results import Score, StepDetails, VerifyResult, new_score


def _tensors(count: int) -> str:
    return ", ".join(["Tensor"] * count)


_library = torch.library.Library("eft_ext", "DEF")
_library.define(f"step({MIX_SCHEMA}, {SAMPLING_SCHEMA}, str backend) -> Tensor")
_library.define(f"step_details({MIX_SCHEMA}, {SAMPLING_SCHEMA}, str backend, SymInt num_top) -> ({_tensors(9)})")
_library.define(f"combine({MIX_SCHEMA}, str backend) -> Tensor")
_library.define(f"verify({DRAFT_SCHEMA}, {MIX_SCHEMA}, {SAMPLING_SCHEMA}, str backend) -> ({_tensors(3)})")
_library.define(
    f"score({MIX_SCHEMA}, Tensor targets, int ignore_index, int compared, int num_top, int num_changed, "
    f"str backend) -> ({_tensors(len(Score._fields))})"
)


def _split(arguments: Sequence[Any]) -> tuple[MixParams, SamplingParams]:
    mix, sampling = unflatten(arguments)
    assert sampling is not None
    return mix, sampling


def _step(*arguments: Any) -> Tensor:
    mix, sampling = _split(arguments[:-1])
    tokens = new_tokens(mix)
    choose_backend(arguments[-1], mix).step(mix, sampling, tokens, None)
    return tokens


def _step_details(*arguments: Any) -> tuple[Tensor, ...]:
    mix, sampling = _split(arguments[:-2])
    details = new_details(mix, arguments[-1], new_tokens(mix))
    choose_backend(arguments[-2], mix).step(mix, sampling, details.tokens, details)
    return tuple(details)


def _combine(*arguments: Any) -> Tensor:
    mix, _ = unflatten(arguments[:-1])
    z = new_logits(mix)
    choose_backend(arguments[-1], mix).combine(mix, z)
    return z


def _verify(*arguments: Any) -> tuple[Tensor, ...]:
    drafted = unflatten_draft(arguments[:NUM_DRAFT])
    mix, sampling = _split(arguments[NUM_DRAFT:-1])
    result = new_verified(drafted)
    choose_backend(arguments[-1], mix).verify(mix, sampling, drafted, result)
    return tuple(result)


def _unflatten_score(arguments: Sequence[Any]) -> tuple[MixParams, Tensor, ScoreParams, Score]:
    mix, _ = unflatten(arguments[:-6])
    targets, wanted = arguments[-6], ScoreParams(*arguments[-5:-1])
    out = new_score((mix.batch,), len(mix.logits), wanted.num_top, wanted.num_changed, mix.device)
    return mix, targets, wanted, out


def _score(*arguments: Any) -> tuple[Tensor, ...]:
    mix, targets, wanted, out = _unflatten_score(arguments)
    choose_backend(arguments[-1], mix).score(mix, targets.contiguous(), wanted, out)
    return tuple(out)


_IMPLEMENTATIONS = {
    "step": _step,
    "step_details": _step_details,
    "combine": _combine,
    "verify": _verify,
    "score": _score,
}
for _name, _implementation in _IMPLEMENTATIONS.items():
    _library.impl(_name, _implementation, "CompositeExplicitAutograd")


@torch.library.register_fake("eft_ext::step", lib=_library)
def _fake_step(*arguments: Any) -> Tensor:
    return new_tokens(unflatten(arguments[:-1])[0])


@torch.library.register_fake("eft_ext::step_details", lib=_library)
def _fake_step_details(*arguments: Any) -> tuple[Tensor, ...]:
    mix = unflatten(arguments[:-2])[0]
    return tuple(new_details(mix, arguments[-1], new_tokens(mix)))


@torch.library.register_fake("eft_ext::combine", lib=_library)
def _fake_combine(*arguments: Any) -> Tensor:
    return new_logits(unflatten(arguments[:-1])[0])


@torch.library.register_fake("eft_ext::verify", lib=_library)
def _fake_verify(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(new_verified(unflatten_draft(arguments[:NUM_DRAFT])))


@torch.library.register_fake("eft_ext::score", lib=_library)
def _fake_score(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(_unflatten_score(arguments)[-1])


def traced_step(mix: MixParams, sampling: SamplingParams, backend: str) -> Tensor:
    return torch.ops.eft_ext.step(*flatten(mix, sampling), backend)


def traced_step_details(mix: MixParams, sampling: SamplingParams, backend: str, num_top: int) -> StepDetails:
    return StepDetails(*torch.ops.eft_ext.step_details(*flatten(mix, sampling), backend, num_top))


def traced_combine(mix: MixParams, backend: str) -> Tensor:
    return torch.ops.eft_ext.combine(*flatten(mix), backend)


def traced_verify(mix: MixParams, sampling: SamplingParams, drafted: DraftParams, backend: str) -> VerifyResult:
    return VerifyResult(*torch.ops.eft_ext.verify(*flatten_draft(drafted), *flatten(mix, sampling), backend))


def traced_score(mix: MixParams, targets: Tensor, wanted: ScoreParams, backend: str) -> Score:
    return Score(*torch.ops.eft_ext.score(*flatten(mix), targets, *wanted, backend))
