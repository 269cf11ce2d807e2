"""Empty tensors for results, on the logits' device."""

from __future__ import annotations

import torch
from torch import Tensor

from eft_ext.ops.params import DraftParams, MixParams
from eft_ext.ops.results import StepDetails, VerifyResult


def new_tokens(mix: MixParams) -> Tensor:
    return torch.empty(mix.batch, dtype=torch.int64, device=mix.device)


def new_details(mix: MixParams, num_top: int, tokens: Tensor) -> StepDetails:
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


def new_logits(mix: MixParams) -> Tensor:
    return torch.empty((mix.batch, mix.vocab_size), dtype=torch.float32, device=mix.device)


def new_verified(drafted: DraftParams) -> VerifyResult:
    def new(dtype: torch.dtype, *width: int) -> Tensor:
        return torch.empty((batch, *width), dtype=dtype, device=drafted.drafts.device)

    batch, k = drafted.drafts.shape
    return VerifyResult(new(torch.int64, k + 1), new(torch.int64), new(torch.int32))
