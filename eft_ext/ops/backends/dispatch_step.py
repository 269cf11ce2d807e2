"""A step from its checked call to its results: through the binding, or through an operator under tracing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.backends import torch_ops
from eft_ext.ops.backends.allocate import new_details, new_logits, new_tokens
from eft_ext.ops.backends.registry import choose_backend
from eft_ext.ops.inputs import check_out
from eft_ext.ops.params import MixParams, SamplingParams, tensors_of
from eft_ext.ops.results import StepDetails
from eft_ext.ops.tracing import needs_operator


class StepOutputs(NamedTuple):
    """The results that a caller wants, and the tensors to write them into."""

    return_details: bool
    top_logprobs: int
    out: Tensor | None
    details_out: StepDetails | None
    workspace: Tensor | None


def dispatch_step(mix: MixParams, sampling: SamplingParams, backend: str, outputs: StepOutputs) -> Tensor | StepDetails:
    """One step: tokens [B] int64, or `StepDetails` where asked for."""
    num_top = _num_top(outputs)
    _check_outputs(mix, num_top, outputs)
    details = outputs.return_details or outputs.details_out is not None
    if needs_operator(tensors_of(mix, *sampling)):
        return _traced(mix, sampling, backend, outputs, num_top if details else None)

    out, wanted = outputs.out, outputs.details_out
    if wanted is not None:
        tokens = wanted.tokens
    else:
        tokens = new_tokens(mix) if out is None else out
        wanted = new_details(mix, num_top, tokens) if details else None
    choose_backend(backend, mix).step(mix, sampling, tokens, wanted, outputs.workspace)
    if out is not None and tokens is not out:
        out.copy_(tokens)
    return tokens if wanted is None else wanted


def dispatch_combine(mix: MixParams, backend: str) -> Tensor:
    """The mixture's logits, fp32 [B, V]."""
    if needs_operator(tensors_of(mix)):
        return torch_ops.traced_combine(mix, backend)
    z = new_logits(mix)
    choose_backend(backend, mix).combine(mix, z)
    return z


def _traced(
    mix: MixParams, sampling: SamplingParams, backend: str, outputs: StepOutputs, num_top: int | None
) -> Tensor | StepDetails:
    if num_top is None:
        tokens = torch_ops.traced_step(mix, sampling, backend)
        return tokens if outputs.out is None else outputs.out.copy_(tokens)
    found = torch_ops.traced_step_details(mix, sampling, backend, num_top)
    if outputs.out is not None:
        outputs.out.copy_(found.tokens)
    if outputs.details_out is None:
        return found
    for field, value in zip(outputs.details_out, found, strict=True):
        field.copy_(value)
    return outputs.details_out


def _num_top(outputs: StepOutputs) -> int:
    given, count = outputs.details_out, outputs.top_logprobs
    if given is not None:
        if not isinstance(given, StepDetails) or not all(isinstance(field, Tensor) for field in given):
            raise TypeError(f"details_out: expected StepDetails of tensors, got {type(given).__name__}")
        if given.top_ids.dim() != 2 or count not in (0, given.top_ids.shape[1]):
            raise ValueError(
                f"details_out.top_ids: expected [batch, top_logprobs], got {list(given.top_ids.shape)} "
                f"beside top_logprobs={count}"
            )
        return given.top_ids.shape[1]
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**20:
        raise ValueError(f"top_logprobs: expected an integer of at least 0, got {count}")
    if count and not outputs.return_details:
        raise ValueError("top_logprobs: expected return_details=True beside it, got False")
    return count


def _check_outputs(mix: MixParams, num_top: int, outputs: StepOutputs) -> None:
    batch, device = mix.batch, mix.device
    if outputs.workspace is not None and not isinstance(outputs.workspace, Tensor):
        raise TypeError(f"workspace: expected a tensor, got {type(outputs.workspace).__name__}")
    if outputs.out is not None:
        check_out("out", outputs.out, torch.int64, (batch,), device)
    if outputs.details_out is None:
        return
    widths = {"model_logprobs": (len(mix.logits),), "top_ids": (num_top,), "top_logprobs": (num_top,)}
    integers = {"tokens": torch.int64, "top_ids": torch.int64, "num_kept": torch.int32, "status": torch.int32}
    for name, field in zip(StepDetails._fields, outputs.details_out, strict=True):
        dtype = integers.get(name, torch.float32)
        check_out(f"details_out.{name}", field, dtype, (batch, *widths.get(name, ())), device)
