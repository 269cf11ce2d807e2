"""The step: K models' logits in, one token a row out (numerics.md §1 to §5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from eft_ext.ops.backends import call_cache, native
from eft_ext.ops.backends.dispatch_step import StepOutputs, dispatch_combine, dispatch_step
from eft_ext.ops.backends.registry import choose_backend
from eft_ext.ops.check_params import (
    beta_weights,
    check_logits_list,
    given_weights,
    logits_names,
    mix_params,
    sampling_params,
    special_of,
    step_params,
)
from eft_ext.ops.deprecated import renamed_bitmask
from eft_ext.ops.inputs import check_logits
from eft_ext.ops.method import Method, resolve
from eft_ext.ops.params import EFT_NAMES, ConservativeParams, Weights
from eft_ext.ops.results import StepDetails
from eft_ext.ops.score import score_whole_models
from eft_ext.ops.special_tokens import SpecialTokens


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
    token_bitmask: Tensor | None = None,
    special_tokens: SpecialTokens | None = None,
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
    allowed: Tensor | None = None,
) -> Any:  # Tensor, or StepDetails where details are asked for
    """Samples one token per row from the emulated fine-tuned model (Mitchell et al. 2023, arXiv 2310.12962).

    The mixture is z = large + beta * (tuned - base), or with `scale` z = tuned + scale * (large - base); then
    temperature, top-k, top-p and min-p in transformers' order and with its semantics, and one draw. Each tensor is
    read once. The same logits, seed and position give the same token on every backend, for every
    batch size and slot.

    Args:
        large, tuned, base: next-token logits [B, V_k], bf16, fp16 or fp32, on one device, any row stride, last
            dimension contiguous. Widths may differ by padding.
        beta: weight of the behaviour delta, 1 if neither weight is given. A number or a tensor [B], as are all the
            options down to `conservative_top_p`; floating ones are rounded to fp32.
        scale: weight of the up-scaling delta; selects the other form and excludes `beta`.
        temperature: from 0; below 2^-20 is greedy (the largest z, lowest id on ties).
        top_k: keeps the k largest and their ties; 0 is off.
        top_p: keeps the fewest likeliest tokens that hold this mass; 1 is off, 0 keeps the first.
        min_p: keeps tokens of at least this fraction of the largest probability; 0 is off.
        conservative_top_p: up-scales only inside this nucleus of the `conservative_set` model's own distribution (the
            paper's conservative decoding); outside it tokens keep the tuned model's logit, or are excluded with
            `conservative_outside="drop"`. None or 1 is off; selects the form of `scale`, 1 if that is not given.
        bias: fp32 [V] or [B, V], added to z.
        token_bitmask: int32 bitmask [B, ceil(V/32)] (xgrammar's layout); tokens whose bit is 0 are excluded.
        special_tokens: token ids that the models do not share, and whose own they are (numerics.md §15).
        allowed: the old name of `token_bitmask`, for one version.
        seed: an integer (each row gets a stream of its own) or int64 [B] (a row's stream then does not depend on
            its slot in the batch). Needs `position`.
        position: the number of tokens each row has generated so far, an integer or int64 [B].
        generator: draws the seed, where none is given; else torch's default CPU generator does.
        vocab_size: the columns that count; the narrowest model's width if not given.
        backend: "auto", "cuda", "triton", "cpu" or "reference".
        return_details: return `StepDetails` instead of the tokens.
        top_logprobs: how many of the first tokens of the rank `StepDetails` lists.
        out, details_out: contiguous tensors to write into; nothing is allocated then.
        workspace: scratch for CUDA backends, a tensor of zeros before its first use; too small a one is an error that
            says how many bytes the call needs. By default one is kept for each device and stream.

    Returns:
        Token ids [B] int64 (in place of `torch.multinomial(...).squeeze(-1)`), or `StepDetails`. A row that is
        invalid (NaN, +inf, everything excluded, a bad value in an option tensor) gives -1 and status 1; its
        neighbours are untouched.

    Raises:
        ValueError, TypeError: an argument that does not fit; the message names it, the expected and the given value.
        RuntimeError: a backend that is not usable here; the message says what would enable it.
    """
    token_bitmask = renamed_bitmask(token_bitmask, allowed)
    logits: tuple[Tensor, ...] = (large, tuned, base)
    key = None
    if not (return_details or details_out is not None or top_logprobs or workspace is not None):
        form = (beta, scale, conservative_top_p, conservative_set, conservative_outside)
        sampled = (temperature, top_k, top_p, min_p, bias, token_bitmask, special_tokens, generator, vocab_size)
        options = (*form, *sampled, backend)
        key = call_cache.cache_key(logits, options, seed, position, out)
        if key is not None and (tokens := call_cache.run_cached(key, logits, seed, position, out)) is not None:
            return tokens
    logits = check_logits(EFT_NAMES, logits)
    conservative = None
    if conservative_top_p is not None:
        conservative = ConservativeParams(conservative_top_p, conservative_set, conservative_outside)
        scale = 1.0 if scale is None and beta is None else scale
        if scale is None:
            raise ValueError("conservative_top_p: expected the form of scale, got beta (give scale instead)")
    if scale is not None and beta is not None:
        raise ValueError("scale: expected none beside beta (they are two different forms), got both")
    weights = beta_weights(1.0 if beta is None else beta, scale, logits)
    mix = mix_params(EFT_NAMES, logits, weights, vocab_size, conservative, bias, token_bitmask, special_tokens)
    sampling = sampling_params(mix, temperature, top_k, top_p, min_p, seed, position, generator)
    if key is not None and choose_backend(backend, mix) is native:
        call_cache.store(key, mix, sampling)
        return call_cache.run_cached(key, mix.logits, sampling.seed.value, sampling.position.value, out)
    return dispatch_step(mix, sampling, backend, StepOutputs(return_details, top_logprobs, out, details_out, workspace))


def fused_mix(
    logits: Sequence[Tensor],
    weights: Weights | Method,
    *,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
    bias: Tensor | None = None,
    token_bitmask: Tensor | None = None,
    special_tokens: SpecialTokens | None = None,
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
    allowed: Tensor | None = None,
) -> Any:  # Tensor, or StepDetails where details are asked for
    """Samples one token per row from z = sum_k weights_k * logits_k.

    K = 1 is plain sampling, K = 2 contrastive decoding, classifier-free guidance or decoding-time realignment, K = 3
    emulated fine-tuning, K = 4 the interpolation of two behaviours. Everything else, the results and the errors are
    those of `fused_step`.

    Args:
        logits: 1 to 4 tensors [B, V_k].
        weights: K numbers or tensors [B], or a tensor [K] or [B, K]; or a method of `eft_ext.methods`, which says which
            models it mixes in which order. One whose parameters are functions of the step needs an integer `position`.
        special_tokens: those that the method carries, if not given.
    """
    token_bitmask = renamed_bitmask(token_bitmask, allowed)
    method: Method | None = None
    if isinstance(weights, Method):
        method = resolve(weights, logits, position)
        weights = method.weights()
        special_tokens = special_of(method, special_tokens)[0]
    key = None
    alike = method is None or (method.conservative() is None and type(method).prepare is Method.prepare)
    alike = alike and type(logits) in (list, tuple) and len(logits) > 0 and type(weights) in (list, tuple)
    if alike and not (return_details or details_out is not None or top_logprobs or workspace is not None):
        logits = tuple(logits)
        sampled = (temperature, top_k, top_p, min_p, bias, token_bitmask, special_tokens, generator, vocab_size)
        options = ("mix", method and method.models, *weights, *sampled, backend)
        key = call_cache.cache_key(logits, options, seed, position, out)
        if key is not None and (tokens := call_cache.run_cached(key, logits, seed, position, out)) is not None:
            return tokens
    mix, sampling = step_params(
        logits,
        weights if method is None else method,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        bias=bias,
        token_bitmask=token_bitmask,
        seed=seed,
        position=position,
        generator=generator,
        vocab_size=vocab_size,
        special_tokens=special_tokens,
    )
    if key is not None and choose_backend(backend, mix) is native:
        call_cache.store(key, mix, sampling)
        return call_cache.run_cached(key, mix.logits, sampling.seed.value, sampling.position.value, out)
    found = dispatch_step(
        mix, sampling, backend, StepOutputs(return_details, top_logprobs, out, details_out, workspace)
    )
    if method is not None and isinstance(found, StepDetails):
        score_whole_models(found, logits, mix)
    return found


def combine(
    logits: Sequence[Tensor],
    weights: Weights | Method,
    *,
    position: int | None = None,
    conservative_top_p: float | Tensor | None = None,
    conservative_set: Literal["large", "tuned", "base"] = "tuned",
    conservative_outside: Literal["keep", "drop"] = "keep",
    bias: Tensor | None = None,
    token_bitmask: Tensor | None = None,
    special_tokens: SpecialTokens | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
    allowed: Tensor | None = None,
) -> Tensor:
    """Returns z = sum_k weights_k * logits_k (+ bias), fp32 [B, V], for logits processors or a sampler of your own.

    A token that is -inf or its dtype's lowest value in any model, or whose bit is 0, is -inf. A NaN or +inf stays where
    the formula puts it; a row with a bad value in an option tensor is NaN throughout. Arguments as for `fused_mix`;
    with `conservative_top_p` the models are large, tuned, base and the weights (scale, 1, -scale). `position` is for a
    method whose parameters are functions of the step.
    """
    token_bitmask = renamed_bitmask(token_bitmask, allowed)
    logits = check_logits_list(logits)
    conservative, names = None, None
    if isinstance(weights, Method):
        if conservative_top_p is not None:
            raise ValueError(f"conservative_top_p: expected none beside {weights!r}; use eft_ext.methods.Conservative")
        method = resolve(weights, logits, position)
        special_tokens, names = special_of(method, special_tokens)
        logits, weights, conservative = method.prepare(logits, vocab_size), method.weights(), method.conservative()
    if conservative_top_p is not None:
        if len(logits) != 3:
            raise ValueError(f"conservative_top_p: expected large, tuned and base, got {len(logits)} models")
        conservative = ConservativeParams(conservative_top_p, conservative_set, conservative_outside)
    of_models = given_weights(weights, logits)
    options = (vocab_size, conservative, bias, token_bitmask, special_tokens, names)
    mix = mix_params(logits_names(logits), logits, of_models, *options)
    return dispatch_combine(mix, backend)
