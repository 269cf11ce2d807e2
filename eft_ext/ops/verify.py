"""Speculative verification: drafts and logits at k + 1 positions in, the accepted ones out (numerics.md §8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from eft_ext.ops.backends.dispatch_verify import dispatch_verify
from eft_ext.ops.check_params import given_weights, mix_params, sampling_params, special_of
from eft_ext.ops.deprecated import renamed_bitmask
from eft_ext.ops.inputs import check_integer, check_logits, check_real, in_memory
from eft_ext.ops.method import Method, at_positions, check_count
from eft_ext.ops.params import GREEDY_BELOW, ConservativeParams, DraftParams, Integer, Weights
from eft_ext.ops.results import VerifyResult
from eft_ext.ops.special_tokens import SpecialTokens
from eft_ext.ops.step import combine


def fused_verify(
    drafts: Tensor,
    draft_logits: Tensor | None,
    logits: Sequence[Tensor],
    weights: Weights | Method,
    *,
    lengths: int | Tensor | None = None,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
    draft_temperature: float | Tensor | None = None,
    draft_top_k: int | Tensor | None = None,
    draft_top_p: float | Tensor | None = None,
    draft_min_p: float | Tensor | None = None,
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
    out: VerifyResult | None = None,
    allowed: Tensor | None = None,
) -> VerifyResult:
    """Decides how many drafted tokens are accepted, and draws the one that follows: exact speculative sampling.

    Each draft x is accepted with probability min(1, p(x)/q(x)), p being the mixture and q the draft model alone,
    both after temperature and filters; at the first rejection the token is drawn from max(0, p - q), and after k
    acceptances a bonus token from p. The tokens are distributed as if every one had been drawn from the
    mixture (Leviathan et al. 2023, arXiv 2211.17192; for emulated fine-tuning Mitchell et al. 2023, speculative
    up-scaling). The decisions are made in integers: the same on every backend, for every batch size and slot.

    Args:
        drafts: proposed tokens, int64 [B, k]. They must have been drawn from q: by
            `fused_mix([draft_logits[:, i]], [1.0], position=position + i, ...)` with the same seeds. With k = 0 the
            call is an ordinary step.
        draft_logits: the draft model's logits at the drafted positions [B, k, V_d], any strides with a contiguous
            last dimension. None, or any, for drafts that are certain (draft_temperature 0: a greedy draft model,
            or a lookup): q is then 1 at the draft.
        logits: 1 to 4 tensors [B, k+1, V_k]: every model's logits before each draft and after the last one. That of
            the draft model may be the same memory as `draft_logits`.
        weights: as for `fused_mix`, also a method of `eft_ext.methods`; with `conservative_top_p` they are
            (scale, 1, -scale), as for `combine`. One whose parameters are functions of the step needs a position, and
            is mixed beforehand, since its weights differ within a row: one fp32 tensor [B, k+1, V] more.
        lengths: how many of a row's drafts count, 0 to k, an integer or int64 [B]; all of them if not given. A row
            with 0 takes an ordinary step.
        temperature, top_k, top_p, min_p, bias, seed, position, generator, vocab_size, backend: as for `fused_step`;
            position is the number of tokens generated before the first draft. With a temperature below 2^-20 a draft
            is accepted iff it is the mixture's first token. `bias` also applies to q.
        draft_temperature, draft_top_k, draft_top_p, draft_min_p: those that the drafts were drawn with; the
            mixture's where not given.
        conservative_top_p, conservative_set, conservative_outside: as for `fused_step`.
        token_bitmask: int32 bitmask [B, ceil(V/32)] for all positions or [B, k+1, ceil(V/32)]; also applies to q.
        special_tokens: as for `fused_step`; of the mixture, not of q.
        allowed: the old name of `token_bitmask`, for one version.
        out: contiguous tensors to write into.

    Returns:
        `VerifyResult`: the tokens [B, k+1] (accepted drafts, the token that follows, then -1), how many drafts were
        accepted [B], status [B]. A row that meets an invalid position (NaN, +inf, nothing left, a draft outside
        the vocabulary) ends there with -1 and status 1; logits after a rejection are not read.

    Raises:
        ValueError, TypeError: an argument that does not fit; the message names it, the expected and the given value.
        NotImplementedError: on CUDA more than 1535 drafts, or with backend="cuda" a vocabulary above 2^19.
    """
    token_bitmask = renamed_bitmask(token_bitmask, allowed)
    drafts, logits, views, names = _models(drafts, logits)
    if draft_logits is not None:
        draft_logits = _check_draft(draft_logits, drafts, logits[0])
    if isinstance(token_bitmask, Tensor):
        token_bitmask = in_memory("token_bitmask", token_bitmask)
    conservative, models = None, None
    if isinstance(weights, Method):
        if conservative_top_p is not None:
            raise ValueError(f"conservative_top_p: expected none beside {weights!r}; use eft_ext.methods.Conservative")
        special_tokens, models = special_of(weights, special_tokens)
        scheduled = weights.is_scheduled
        logits, weights, conservative = _mixed(logits, weights, position, vocab_size, special_tokens, backend)
        special_tokens = None if scheduled else special_tokens  # it is mixed already
        names, views = names[: len(logits)], [x[:, 0] for x in logits]
    if conservative_top_p is not None:
        if len(logits) != 3:
            raise ValueError(f"conservative_top_p: expected large, tuned and base, got {len(logits)} models")
        conservative = ConservativeParams(conservative_top_p, conservative_set, conservative_outside)
    first = token_bitmask
    if isinstance(token_bitmask, Tensor) and token_bitmask.dim() == 3:
        if token_bitmask.shape[1] != drafts.shape[1] + 1:
            came = list(token_bitmask.shape)
            raise ValueError(f"token_bitmask: expected {drafts.shape[1] + 1} positions, got shape {came}")
        first = token_bitmask[:, 0]
    if draft_logits is not None:
        names, views = [*names, "draft_logits"], [*views, draft_logits[:, :1].flatten(0, 1)]
    count = len(logits)
    options = (vocab_size, conservative, bias, first, special_tokens, models)
    mix = mix_params(names, views, given_weights(weights, views[:count]), *options)
    mix = mix._replace(logits=tuple(views[:count]))
    sampling = sampling_params(mix, temperature, top_k, top_p, min_p, seed, position, generator)
    mix = mix._replace(logits=logits, token_bitmask=token_bitmask)
    batch, device = mix.batch, mix.device

    def draft_option(name: str, option: Any, default: Any, make: Any, *bounds: float) -> Any:
        return default if option is None else make(f"draft_{name}", option, batch, device, *bounds)

    drafted = DraftParams(
        drafts.contiguous(),
        draft_logits if drafts.shape[1] else None,
        Integer(drafts.shape[1]) if lengths is None else check_integer("lengths", lengths, batch, device),
        draft_option("temperature", draft_temperature, sampling.temperature, check_real, 0),
        draft_option("top_k", draft_top_k, sampling.top_k, check_integer),
        draft_option("top_p", draft_top_p, sampling.top_p, check_real, 0, 1),
        draft_option("min_p", draft_min_p, sampling.min_p, check_real, 0, 1),
    )
    _check_lengths_and_certainty(drafted)
    return dispatch_verify(mix, sampling, drafted, backend, out)


def _mixed(
    logits: tuple[Tensor, ...],
    method: Method,
    position: int | Tensor | None,
    vocab_size: int | None,
    special_tokens: SpecialTokens | None,
    backend: str,
) -> tuple[tuple[Tensor, ...], Weights, ConservativeParams | None]:
    """The logits that a method mixes, and their weights: one mixture where weights change from position to position."""
    check_count(method, logits)
    rows, positions = logits[0].shape[:2]
    shape = torch.Size((rows, positions))
    at = at_positions(method, shape, position, logits[0].device)

    def spread(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        return (value[:, None].expand(shape) if value.shape == shape[:1] else value).flatten()

    each = at.mapped(spread)
    if method.is_scheduled:
        options: Any = {"vocab_size": vocab_size, "special_tokens": special_tokens, "backend": backend}
        z = combine([x.flatten(0, 1) for x in logits], each, **options)
        return (z.unflatten(0, shape),), (1.0,), None
    flat = [x.flatten(0, 1) for x in logits] if type(method).prepare is not Method.prepare else []
    left = each.prepare(flat, vocab_size) if flat else flat
    cut = (x if y is z else z.unflatten(0, shape) for x, y, z in zip(logits, flat, left, strict=True))
    return tuple(cut) if flat else logits, method.weights(), method.conservative()


def _models(drafts: Tensor, logits: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...], list[Tensor], list[str]]:
    """The drafts, the logits, their first positions, and their names."""
    if isinstance(logits, Tensor) or not isinstance(logits, Sequence):
        raise TypeError(
            f"logits: expected a sequence of 1 to 4 tensors [batch, k+1, vocab], got {type(logits).__name__}"
        )
    names = [f"logits[{k}]" for k in range(len(logits))]
    if not isinstance(drafts, Tensor) or drafts.dtype != torch.int64:
        raise TypeError(
            f"drafts: expected an int64 tensor [batch, k], got {getattr(drafts, 'dtype', type(drafts).__name__)}"
        )
    drafts = in_memory("drafts", drafts)
    if drafts.dim() != 2:
        raise ValueError(f"drafts: expected shape [batch, k], got {list(drafts.shape)}")
    logits = tuple(_check_positions(name, x, drafts.shape[1] + 1) for name, x in zip(names, logits, strict=True))
    views = [x[:, 0] for x in logits]
    check_logits(names, views)
    if views[0].shape[0] != drafts.shape[0] or views[0].device != drafts.device:
        raise ValueError(
            f"drafts: expected {views[0].shape[0]} rows on {views[0].device} as the logits, got "
            f"{list(drafts.shape)} on {drafts.device}"
        )
    return drafts, logits, views, names


def _check_positions(name: str, x: Any, positions: int) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor [batch, {positions}, vocab], got {type(x).__name__}")
    if x.dim() != 3 or x.shape[1] != positions:
        raise ValueError(f"{name}: expected shape [batch, {positions}, vocab], got {list(x.shape)}")
    return in_memory(name, x)


def _check_draft(draft_logits: Tensor, drafts: Tensor, like: Tensor) -> Tensor:
    draft_logits = _check_positions("draft_logits", draft_logits, drafts.shape[1])
    if drafts.shape[1]:
        check_logits(["logits[0]", "draft_logits"], [like[:, 0], draft_logits[:, 0]])
    return draft_logits


def _check_lengths_and_certainty(drafted: DraftParams) -> None:
    k = drafted.drafts.shape[1]
    if drafted.lengths.rows is None and drafted.lengths.value > k:
        raise ValueError(f"lengths: expected 0 to {k}, got {drafted.lengths.value}")
    certain = drafted.temperature.rows is None and drafted.temperature.value < GREEDY_BELOW
    if k and drafted.logits is None and not certain:
        raise ValueError("draft_logits: expected a tensor, got None (only drafts of draft_temperature 0 need none)")
