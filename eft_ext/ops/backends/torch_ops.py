"""The step as operators of `torch.library`, for tracing: `torch.compile`, `torch.export`, fake tensors.

Eager calls go around them (`tracing.is_traced`): an operator costs four microseconds a call, the binding a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eft_ext.ops.backends.registry import choose
from eft_ext.ops.params import (
    DRAFTED_SCHEMA,
    MIXTURE_SCHEMA,
    NUM_DRAFTED,
    SAMPLING_SCHEMA,
    Drafted,
    Mixture,
    Sampling,
    flatten,
    flatten_drafted,
    unflatten,
    unflatten_drafted,
)
from eft_ext.ops.results import StepDetails, VerifyResult

_library = torch.library.Library("eft_ext", "DEF")
_library.define(f"step({MIXTURE_SCHEMA}, {SAMPLING_SCHEMA}, str backend) -> Tensor")
_library.define(
    f"step_details({MIXTURE_SCHEMA}, {SAMPLING_SCHEMA}, str backend, SymInt num_top) -> ({', '.join(['Tensor'] * 9)})"
)
_library.define(f"combine({MIXTURE_SCHEMA}, str backend) -> Tensor")
_library.define(
    f"verify({DRAFTED_SCHEMA}, {MIXTURE_SCHEMA}, {SAMPLING_SCHEMA}, str backend) -> (Tensor, Tensor, Tensor)"
)


def new_tokens(mix: Mixture) -> Tensor:
    return torch.empty(mix.batch, dtype=torch.int64, device=mix.device)


def new_details(mix: Mixture, num_top: int, tokens: Tensor) -> StepDetails:
    def new(dtype: torch.dtype, *width: int) -> Tensor:
        return torch.empty((mix.batch, *width), dtype=dtype, device=mix.device)

    return StepDetails(
        tokens=tokens,
        logprobs=new(torch.float32),
        raw_logprobs=new(torch.float32),
        model_logprobs=new(torch.float32, len(mix.logits)),
        entropy=new(torch.float32),
        num_kept=new(torch.int32),
        top_ids=new(torch.int64, num_top),
        top_logprobs=new(torch.float32, num_top),
        status=new(torch.int32),
    )


def _split(arguments: Sequence[Any]) -> tuple[Mixture, Sampling]:
    mix, draw = unflatten(arguments)
    assert draw is not None
    return mix, draw


def _step(*arguments: Any) -> Tensor:
    mix, draw = _split(arguments[:-1])
    tokens = new_tokens(mix)
    choose(arguments[-1], mix, draw, details=False).step(mix, draw, tokens, None)
    return tokens


def _step_details(*arguments: Any) -> tuple[Tensor, ...]:
    mix, draw = _split(arguments[:-2])
    details = new_details(mix, arguments[-1], new_tokens(mix))
    choose(arguments[-2], mix, draw, details=True).step(mix, draw, details.tokens, details)
    return tuple(details)


def new_mixed(mix: Mixture) -> Tensor:
    return torch.empty((mix.batch, mix.vocab_size), dtype=torch.float32, device=mix.device)


def _combine(*arguments: Any) -> Tensor:
    mix, _ = unflatten(arguments[:-1])
    z = new_mixed(mix)
    choose(arguments[-1], mix, None, details=False).combine(mix, z)
    return z


def new_verified(drafted: Drafted) -> VerifyResult:
    def new(dtype: torch.dtype, *width: int) -> Tensor:
        return torch.empty((batch, *width), dtype=dtype, device=drafted.drafts.device)

    batch, k = drafted.drafts.shape
    return VerifyResult(new(torch.int64, k + 1), new(torch.int64), new(torch.int32))


def _verify(*arguments: Any) -> tuple[Tensor, ...]:
    drafted = unflatten_drafted(arguments[:NUM_DRAFTED])
    mix, draw = _split(arguments[NUM_DRAFTED:-1])
    result = new_verified(drafted)
    choose(arguments[-1], mix, None, details=False).verify(mix, draw, drafted, result)
    return tuple(result)


_IMPLEMENTATIONS = {"step": _step, "step_details": _step_details, "combine": _combine, "verify": _verify}
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
    return new_mixed(unflatten(arguments[:-1])[0])


@torch.library.register_fake("eft_ext::verify", lib=_library)
def _fake_verify(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(new_verified(unflatten_drafted(arguments[:NUM_DRAFTED])))


def traced_verify(mix: Mixture, draw: Sampling, drafted: Drafted, backend: str) -> VerifyResult:
    return VerifyResult(*torch.ops.eft_ext.verify(*flatten_drafted(drafted), *flatten(mix, draw), backend))


def traced_step(mix: Mixture, draw: Sampling, backend: str) -> Tensor:
    return torch.ops.eft_ext.step(*flatten(mix, draw), backend)


def traced_step_details(mix: Mixture, draw: Sampling, backend: str, num_top: int) -> StepDetails:
    return StepDetails(*torch.ops.eft_ext.step_details(*flatten(mix, draw), backend, num_top))


def traced_combine(mix: Mixture, backend: str) -> Tensor:
    return torch.ops.eft_ext.combine(*flatten(mix), backend)
