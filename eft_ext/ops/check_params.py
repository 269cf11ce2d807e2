"""Arguments of a call into its parameters: every error names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from eft_ext.ops.inputs import (
    check_bias,
    check_integer,
    check_logits,
    check_real,
    check_token_bitmask,
    in_memory,
    resolve_vocab_size,
)
from eft_ext.ops.method import Method, resolve
from eft_ext.ops.params import (
    EFT_NAMES,
    OFF,
    ConservativeParams,
    MixParams,
    Real,
    SamplingParams,
    ScoreParams,
    Weights,
)
from eft_ext.ops.seeds import seed_and_position
from eft_ext.ops.special_tokens import SpecialTokens, special_masks


def mix_params(
    names: Sequence[str],
    logits: Sequence[Tensor],
    weights: Sequence[Real],
    vocab_size: int | None,
    conservative: ConservativeParams | None,
    bias: Tensor | None,
    token_bitmask: Tensor | None,
    special_tokens: SpecialTokens | None = None,
    models: Sequence[str] | None = None,
) -> MixParams:
    """Checks everything but the weights, which `beta_weights` and `given_weights` made; `check_logits` came first.

    Args:
        names: of the logits' arguments, for messages.
        models: names for the owner of special tokens; large, tuned, base where there are three, if not given.
    """
    batch, device = logits[0].shape[0], logits[0].device
    size = resolve_vocab_size(names, logits, vocab_size)
    if bias is not None:
        bias = check_bias(bias, batch, size, device)
    if token_bitmask is not None:
        token_bitmask = check_token_bitmask(token_bitmask, batch, size, device)
    defining, drop, nucleus = 0, False, OFF
    if conservative is not None:
        if conservative.set not in EFT_NAMES:
            raise ValueError(f"conservative_set: expected one of {EFT_NAMES}, got {conservative.set!r}")
        if conservative.outside not in ("keep", "drop"):
            raise ValueError(f"conservative_outside: expected 'keep' or 'drop', got {conservative.outside!r}")
        defining, drop = 1 + EFT_NAMES.index(conservative.set), conservative.outside == "drop"
        nucleus = check_real("conservative_top_p", conservative.top_p, batch, device, 0, 1)
    owners = models or (EFT_NAMES if len(weights) == len(EFT_NAMES) else names[: len(weights)])
    special = special_masks(special_tokens, owners, size, device)
    return MixParams(tuple(logits), tuple(weights), size, defining, drop, nucleus, bias, token_bitmask, special)


def given_weights(weights: Weights, logits: Sequence[Tensor]) -> list[Real]:
    """K numbers or tensors [B], or one tensor [K] or [B, K]."""
    count, (batch, device) = len(logits), (logits[0].shape[0], logits[0].device)
    if isinstance(weights, Tensor):
        weights = in_memory("weights", weights)
        if weights.dim() not in (1, 2) or weights.shape[-1] != count or weights.numel() not in (count, batch * count):
            raise ValueError(f"weights: expected shape [{count}] or [{batch}, {count}], got {list(weights.shape)}")
        rows = weights.expand(batch, count) if weights.dim() == 1 else weights
        return [check_real("weights", rows[:, k], batch, device) for k in range(count)]
    if not isinstance(weights, Sequence):
        raise TypeError(f"weights: expected {count} numbers, or a tensor, got {type(weights).__name__}")
    if len(weights) != count:
        raise ValueError(f"weights: expected {count}, one for each model, got {len(weights)}")
    return [check_real(f"weights[{k}]", w, batch, device) for k, w in enumerate(weights)]


def beta_weights(beta: float | Tensor, scale: float | Tensor | None, logits: Sequence[Tensor]) -> list[Real]:
    """EFT's (1, beta, -beta), or up-scaling's (scale, 1, -scale)."""
    name, value = ("beta", beta) if scale is None else ("scale", scale)
    w = check_real(name, value, logits[0].shape[0], logits[0].device)
    minus = Real(-w.value, w.rows)
    return [Real(1.0), w, minus] if scale is None else [w, Real(1.0), minus]


def sampling_params(
    mix: MixParams,
    temperature: float | Tensor,
    top_k: int | Tensor,
    top_p: float | Tensor,
    min_p: float | Tensor,
    seed: int | Tensor | None,
    position: int | Tensor | None,
    generator: torch.Generator | None,
) -> SamplingParams:
    """Checks the options and finds every row's seed, drawing one where none was given."""
    batch, device = mix.batch, mix.device
    of_rows = check_real("temperature", temperature, batch, device, 0)
    seeds = seed_and_position(seed, position, generator, of_rows, mix.logits)
    return SamplingParams(
        of_rows,
        check_integer("top_k", top_k, batch, device),
        check_real("top_p", top_p, batch, device, 0, 1),
        check_real("min_p", min_p, batch, device, 0, 1),
        *seeds,
    )


def special_of(method: Method, given: SpecialTokens | None) -> tuple[SpecialTokens | None, tuple[str, ...]]:
    """A call's special tokens, else those that its method carries, and the names that their owner is one of."""
    return method.special_tokens if given is None else given, method.models


def logits_names(logits: Sequence[Tensor]) -> list[str]:
    return [f"logits[{k}]" for k in range(len(logits))]


def check_logits_list(logits: Sequence[Tensor]) -> Sequence[Tensor]:
    if isinstance(logits, Tensor) or not isinstance(logits, Iterable):
        came = f"one tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits: expected a sequence of 1 to 4 tensors [batch, vocab], got {came}")
    logits = tuple(logits)
    return check_logits(logits_names(logits), logits)


def score_params(ignore_index: int, compared: int, num_top: int, num_changed: int, models: int) -> ScoreParams:
    """Checks the numbers."""
    wanted = ScoreParams(ignore_index, compared, num_top, num_changed)
    for name, value in wanted._asdict().items():
        low, high = {"ignore_index": (-(2**63), 2**63 - 1), "compared": (0, models - 1)}.get(name, (0, 2**20))
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
        if not low <= value <= high:
            raise ValueError(f"{name}: expected an integer from {low} to {high}, got {value}")
    return wanted


def step_params(
    logits: Sequence[Tensor],
    weights: Weights | Method,
    *,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
    bias: Tensor | None = None,
    token_bitmask: Tensor | None = None,
    seed: int | Tensor | None = None,
    position: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    vocab_size: int | None = None,
    special_tokens: SpecialTokens | None = None,
) -> tuple[MixParams, SamplingParams]:
    """The arguments of `fused_mix`, checked and normalised."""
    logits, conservative, models = check_logits_list(logits), None, None
    if isinstance(weights, Method):
        method = resolve(weights, logits, position)
        special_tokens, models = special_of(method, special_tokens)
        logits, weights, conservative = method.prepare(logits, vocab_size), method.weights(), method.conservative()
    names, of_models = logits_names(logits), given_weights(weights, logits)
    special = (special_tokens, models)
    mix = mix_params(names, logits, of_models, vocab_size, conservative, bias, token_bitmask, *special)
    return mix, sampling_params(mix, temperature, top_k, top_p, min_p, seed, position, generator)
