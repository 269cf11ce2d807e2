"""The step: K models' logits in, one token a row out (SPEC §2 and §3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from eft_ext.ops import library
from eft_ext.ops.backends import choose
from eft_ext.ops.call import (
    Mixture,
    Weights,
    beta_weights,
    checked,
    given_weights,
    mixture,
    models,
    sampling,
)
from eft_ext.ops.details import Conservative, StepDetails
from eft_ext.ops.inputs import check_logits, check_out, real
from eft_ext.ops.seeds import seed_and_position

EFT_NAMES = ("large", "tuned", "base")


def fused_step(
    large: Tensor,
    tuned: Tensor,
    base: Tensor,
    *,
    beta: float | Tensor | None = None,
    scale: float | Tensor | None = None,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
    conservative_top_p: float | Tensor | None = None,
    conservative_set: Literal["large", "tuned", "base"] = "tuned",
    conservative_outside: Literal["keep", "drop"] = "keep",
    bias: Tensor | None = None,
    allowed: Tensor | None = None,
    seed: int | Tensor | None = None,
    position: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
    return_details: bool = False,
    top_logprobs: int = 0,
    out: Tensor | None = None,
    details_out: StepDetails | None = None,
    workspace: Tensor | None = None,
):
    """Samples one token per row from the emulated fine-tuned model (Mitchell et al. 2023, arXiv 2310.12962).

    The mixture is z = large + beta * (tuned - base), or with `scale` z = tuned + scale * (large - base); then
    temperature, top-k, top-p and min-p in transformers' order and with its semantics, and one draw, all in one
    read of the three tensors. The same logits, seed and position give the same token on every backend, for every
    batch size and slot.

    Args:
        large, tuned, base: next-token logits [B, V_k], bf16, fp16 or fp32, on one device, any row stride, last
            dimension contiguous. Widths may differ by padding.
        beta: weight of the behaviour delta, 1 if neither weight is given. A number or a tensor [B], as are all the
            options down to `conservative_top_p`; floating ones are rounded to fp32.
        scale: weight of the up-scaling delta; selects the other form and excludes `beta`.
        temperature: from 0; below 2^-20 is greedy (the largest z, lowest id on ties).
        top_k: keeps the k largest and their ties; 0 is off.
        top_p: keeps the shortest prefix of the rank that holds this mass; 1 is off, 0 keeps the first.
        min_p: keeps tokens of at least this fraction of the largest probability; 0 is off.
        conservative_top_p: up-scale only inside this nucleus of the `conservative_set` model's own distribution (its
            section on conservative decoding); outside it tokens keep the tuned model's logit, or are excluded with
            `conservative_outside="drop"`. None or 1 is off; selects the form of `scale`, 1 if that is not given.
        bias: fp32 [V] or [B, V], added to z.
        allowed: int32 bitmask [B, ceil(V/32)] (xgrammar's layout); tokens whose bit is 0 are excluded.
        seed: an integer (each row gets a stream of its own) or int64 [B] (a row's stream then does not depend on
            its slot in the batch). Needs `position`.
        position: the number of tokens each row has generated so far, an integer or int64 [B].
        generator: draws the seed, where none is given; else torch's default CPU generator does.
        vocab_size: the columns that count; the narrowest model's width if not given.
        backend: "auto", "cuda", "triton", "cpu" or "reference".
        return_details: return `StepDetails` instead of the tokens.
        top_logprobs: how many of the first tokens of the rank `StepDetails` lists.
        out, details_out: contiguous tensors to write into; nothing is allocated then.
        workspace: scratch for CUDA backends; the CPU keeps its own per thread and takes none.

    Returns:
        Token ids [B] int64 (in place of `torch.multinomial(...).squeeze(-1)`), or `StepDetails`. A row that is
        invalid (NaN, +inf, everything excluded, a bad value in an option tensor) gives -1 and status 1; its
        neighbours are untouched.

    Raises:
        ValueError, TypeError: an argument that does not fit; the message names it, what was expected, what came.
        RuntimeError: a backend that is not usable here, and what would enable it.
    """
    logits = (large, tuned, base)
    check_logits(EFT_NAMES, logits)
    conservative = None
    if conservative_top_p is not None:
        conservative = Conservative(conservative_top_p, conservative_set, conservative_outside)
        scale = 1.0 if scale is None and beta is None else scale
        if scale is None:
            raise ValueError("conservative_top_p: expected the form of scale, got beta (give scale instead)")
    if scale is not None and beta is not None:
        raise ValueError("scale: expected none beside beta (they are two different forms), got both")
    weights = beta_weights(1.0 if beta is None else beta, scale, logits)
    mix = mixture(EFT_NAMES, logits, weights, vocab_size, conservative, bias, allowed)
    options = (temperature, top_k, top_p, min_p, seed, position, generator)
    return _run(mix, *options, backend, return_details, top_logprobs, out, details_out, workspace)


def fused_mix(
    logits: Sequence[Tensor],
    weights: Weights,
    *,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
    bias: Tensor | None = None,
    allowed: Tensor | None = None,
    seed: int | Tensor | None = None,
    position: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
    return_details: bool = False,
    top_logprobs: int = 0,
    out: Tensor | None = None,
    details_out: StepDetails | None = None,
    workspace: Tensor | None = None,
):
    """Samples one token per row from z = sum_k weights_k * logits_k.

    K = 1 is plain sampling, K = 2 contrastive decoding, classifier-free guidance or decoding-time realignment, K = 3
    emulated fine-tuning, K = 4 the interpolation of two behaviours.

    Args:
        logits: 1 to 4 tensors [B, V_k].
        weights: K numbers or tensors [B], or a tensor [K] or [B, K].
        Everything else, what is returned and raised: as for `fused_step`.
    """
    logits = checked(logits)
    mix = mixture(models(logits), logits, given_weights(weights, logits), vocab_size, None, bias, allowed)
    options = (temperature, top_k, top_p, min_p, seed, position, generator)
    return _run(mix, *options, backend, return_details, top_logprobs, out, details_out, workspace)


def combine(
    logits: Sequence[Tensor],
    weights: Weights,
    *,
    conservative_top_p: float | Tensor | None = None,
    conservative_set: Literal["large", "tuned", "base"] = "tuned",
    conservative_outside: Literal["keep", "drop"] = "keep",
    bias: Tensor | None = None,
    allowed: Tensor | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """The mixture's logits z = sum_k weights_k * logits_k (+ bias), fp32 [B, V], for other people's processors.

    A token that is -inf or its dtype's lowest value in any model, or not allowed, is -inf. A NaN or +inf stays where
    the formula puts it; a row with a bad value in an option tensor is NaN throughout. Arguments as for `fused_mix`;
    with `conservative_top_p` the models are large, tuned, base and the weights (scale, 1, -scale).
    """
    logits = checked(logits)
    conservative = None
    if conservative_top_p is not None:
        if len(logits) != 3:
            raise ValueError(f"conservative_top_p: expected large, tuned and base, got {len(logits)} models")
        conservative = Conservative(conservative_top_p, conservative_set, conservative_outside)
    mix = mixture(models(logits), logits, given_weights(weights, logits), vocab_size, conservative, bias, allowed)
    if library.is_traced(logits):
        return library.traced_combine(mix, backend)
    z = library.new_mixed(mix)
    choose(backend, mix, None, details=False).combine(mix, z)
    return z


def _run(
    mix: Mixture,
    temperature: float | Tensor,
    top_k: int | Tensor,
    top_p: float | Tensor,
    min_p: float | Tensor,
    seed: int | Tensor | None,
    position: int | Tensor | None,
    generator: torch.Generator | None,
    backend: str,
    return_details: bool,
    top_logprobs: int,
    out: Tensor | None,
    details_out: StepDetails | None,
    workspace: Tensor | None,
) -> Tensor | StepDetails:
    batch, device = mix.batch, mix.device
    traced = library.is_traced(mix.logits)
    heat = real("temperature", temperature, batch, device, 0)
    seeds = seed_and_position(seed, position, generator, heat, batch, device, traced)
    draw = sampling(mix, heat, top_k, top_p, min_p, *seeds)
    num_top = _num_top(mix, top_logprobs, return_details, details_out)
    _check_outputs(mix, num_top, out, details_out, workspace)
    details = return_details or details_out is not None
    if traced:
        return _run_traced(mix, draw, backend, details, num_top, out, details_out)

    if details_out is not None:
        tokens = details_out.tokens
    else:
        tokens = library.new_tokens(mix) if out is None else out
    wanted = details_out if details_out is not None or not details else library.new_details(mix, num_top, tokens)
    choose(backend, mix, draw, details).step(mix, draw, tokens, wanted)
    if out is not None and tokens is not out:
        out.copy_(tokens)
    return tokens if wanted is None else wanted


def _run_traced(mix, draw, backend, details, num_top, out, details_out):
    if not details:
        tokens = library.traced_step(mix, draw, backend)
        return tokens if out is None else out.copy_(tokens)
    result = library.traced_step_details(mix, draw, backend, num_top)
    if out is not None:
        out.copy_(result.tokens)
    if details_out is None:
        return result
    for field, value in zip(details_out, result, strict=True):
        field.copy_(value)
    return details_out


def _num_top(mix: Mixture, top_logprobs: int, return_details: bool, details_out: StepDetails | None) -> int:
    if details_out is not None:
        return details_out.top_ids.shape[1]
    if isinstance(top_logprobs, bool) or not isinstance(top_logprobs, int) or not 0 <= top_logprobs < 2**20:
        raise ValueError(f"top_logprobs: expected an integer of at least 0, got {top_logprobs}")
    if top_logprobs and not return_details:
        raise ValueError("top_logprobs: expected return_details=True beside it, got False")
    return top_logprobs


def _check_outputs(mix, num_top, out, details_out, workspace):
    batch, device = mix.batch, mix.device
    if workspace is not None and not isinstance(workspace, Tensor):
        raise TypeError(f"workspace: expected a tensor, got {type(workspace).__name__}")
    if out is not None:
        check_out("out", out, torch.int64, (batch,), device)
    if details_out is None:
        return
    widths = {"model_logprobs": (len(mix.logits),), "top_ids": (num_top,), "top_logprobs": (num_top,)}
    integers = {"tokens": torch.int64, "top_ids": torch.int64, "kept": torch.int32, "status": torch.int32}
    for name, field in zip(StepDetails._fields, details_out, strict=True):
        dtype = integers.get(name, torch.float32)
        check_out(f"details_out.{name}", field, dtype, (batch, *widths.get(name, ())), device)
