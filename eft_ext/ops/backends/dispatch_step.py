"""From a checked call to its results: through the binding, or through an operator under tracing."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eft_ext.ops.backends import torch_ops
from eft_ext.ops.backends.registry import choose
from eft_ext.ops.inputs import check_out
from eft_ext.ops.params import Mixture, Sampling, tensors_of
from eft_ext.ops.results import StepDetails
from eft_ext.ops.tracing import is_traced


class Results(NamedTuple):
    """What a caller wants back, and where."""

    return_details: bool
    top_logprobs: int
    out: Tensor | None
    details_out: StepDetails | None
    workspace: Tensor | None


def launch(mix: Mixture, draw: Sampling, backend: str, results: Results) -> Tensor | StepDetails:
    """One step: tokens [B] int64, or `StepDetails` where asked for."""
    num_top = _num_top(results)
    _check_results(mix, num_top, results)
    details = results.return_details or results.details_out is not None
    if is_traced(tensors_of(mix, *draw)):
        return _traced(mix, draw, backend, results, num_top if details else None)

    out, wanted = results.out, results.details_out
    if wanted is not None:
        tokens = wanted.tokens
    else:
        tokens = torch_ops.new_tokens(mix) if out is None else out
        wanted = torch_ops.new_details(mix, num_top, tokens) if details else None
    choose(backend, mix, draw, details).step(mix, draw, tokens, wanted, results.workspace)
    if out is not None and tokens is not out:
        out.copy_(tokens)
    return tokens if wanted is None else wanted


def launch_combine(mix: Mixture, backend: str) -> Tensor:
    """The mixture's logits, fp32 [B, V]."""
    if is_traced(tensors_of(mix)):
        return torch_ops.traced_combine(mix, backend)
    z = torch_ops.new_mixed(mix)
    choose(backend, mix, None, details=False).combine(mix, z)
    return z


def _traced(mix: Mixture, draw: Sampling, backend: str, results: Results, num_top: int | None) -> Tensor | StepDetails:
    if num_top is None:
        tokens = torch_ops.traced_step(mix, draw, backend)
        return tokens if results.out is None else results.out.copy_(tokens)
    found = torch_ops.traced_step_details(mix, draw, backend, num_top)
    if results.out is not None:
        results.out.copy_(found.tokens)
    if results.details_out is None:
        return found
    for field, value in zip(results.details_out, found, strict=True):
        field.copy_(value)
    return results.details_out


def _num_top(results: Results) -> int:
    given, count = results.details_out, results.top_logprobs
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
    if count and not results.return_details:
        raise ValueError("top_logprobs: expected return_details=True beside it, got False")
    return count


def _check_results(mix: Mixture, num_top: int, results: Results) -> None:
    batch, device = mix.batch, mix.device
    if results.workspace is not None and not isinstance(results.workspace, Tensor):
        raise TypeError(f"workspace: expected a tensor, got {type(results.workspace).__name__}")
    if results.out is not None:
        check_out("out", results.out, torch.int64, (batch,), device)
    if results.details_out is None:
        return
    widths = {"model_logprobs": (len(mix.logits),), "top_ids": (num_top,), "top_logprobs": (num_top,)}
    integers = {"tokens": torch.int64, "top_ids": torch.int64, "num_kept": torch.int32, "status": torch.int32}
    for name, field in zip(StepDetails._fields, results.details_out, strict=True):
        dtype = integers.get(name, torch.float32)
        check_out(f"details_out.{name}", field, dtype, (batch, *widths.get(name, ())), device)
