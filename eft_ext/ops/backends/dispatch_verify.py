"""A verification from its checked call to its results: through the binding, or through an operator under tracing."""

from __future__ import annotations

import torch

from eft_ext.ops.backends import torch_ops
from eft_ext.ops.backends.allocate import new_verified
from eft_ext.ops.backends.registry import choose_backend
from eft_ext.ops.inputs import check_out
from eft_ext.ops.params import DraftParams, MixParams, SamplingParams, tensors_of
from eft_ext.ops.results import VerifyResult
from eft_ext.ops.tracing import needs_operator


def dispatch_verify(
    mix: MixParams, sampling: SamplingParams, drafted: DraftParams, backend: str, out: VerifyResult | None
) -> VerifyResult:
    """The result, in `out` where it is given. The logits of `mix` have a position axis, [B, k+1, V]."""
    if out is not None:
        batch, k = drafted.drafts.shape
        shapes = {"tokens": (torch.int64, (batch, k + 1)), "num_accepted": (torch.int64, (batch,))}
        shapes["status"] = (torch.int32, (batch,))
        for name, field in zip(VerifyResult._fields, out, strict=True):
            check_out(f"out.{name}", field, *shapes[name], mix.device)
    q = () if drafted.logits is None else (drafted.logits,)
    if needs_operator((*tensors_of(mix, *sampling, *drafted[2:]), drafted.drafts, *q)):
        found = torch_ops.traced_verify(mix, sampling, drafted, backend)
        return found if out is None else VerifyResult(*(x.copy_(y) for x, y in zip(out, found, strict=True)))
    result = new_verified(drafted) if out is None else out
    choose_backend(backend, mix).verify(mix, sampling, drafted, result)
    return result
