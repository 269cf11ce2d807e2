"""Scoring: probabilities of given tokens under K models and their mixture (numerics.md §9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from eft_ext.ops.backends.dispatch_score import dispatch_score
from eft_ext.ops.check_params import beta_weights, given_weights, logits_names, mix_params, score_params, special_of
from eft_ext.ops.inputs import MAX_MODELS
from eft_ext.ops.method import Method, at_positions, check_count
from eft_ext.ops.params import EFT_NAMES, ConservativeParams, MixParams, ScoreParams, Weights
from eft_ext.ops.positions import check_positions, option_rows, row_chunks
from eft_ext.ops.results import Score, StepDetails, pick_models
from eft_ext.ops.special_tokens import SpecialTokens


def fused_score(
    large: Tensor,
    tuned: Tensor,
    base: Tensor,
    targets: Tensor,
    *,
    beta: float | Tensor | None = None,
    scale: float | Tensor | None = None,
    conservative_top_p: float | Tensor | None = None,
    conservative_set: Literal["large", "tuned", "base"] = "tuned",
    conservative_outside: Literal["keep", "drop"] = "keep",
    ignore_index: int = -100,
    num_top: int = 0,
    num_changed: int = 0,
    special_tokens: SpecialTokens | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
) -> Score:
    """Teacher-forced statistics of three models and of the mixture that emulates fine-tuning (arXiv 2310.12962).

    For every target token and for each of large, tuned, base and the mixture: log-probability, entropy, rank, argmax
    and more (`Score`), and how far the mixture is from the tuned model. The logits are read from memory once; the
    second pass finds them in cache. No tensor of the vocabulary's size is made. Results carry no gradient, even if the
    logits require one.

    Args:
        large, tuned, base: logits [B, V_k] or [B, T, V_k], bf16, fp16 or fp32, on one device, the last dimension
            contiguous; any other strides, so that `logits[:, :-1]` works without a copy. Row t is what a model
            predicts before it has seen target t.
        targets: int64 [B] or [B, T], token ids or `ignore_index`.
        beta, scale: weights of the mixture as for `fused_step`, each a number, a tensor [B] or as `targets`.
        conservative_top_p, conservative_set, conservative_outside: as for `fused_step`.
        ignore_index: targets that are not scored (padding, prompts), as in `torch.nn.functional.cross_entropy`.
        num_top: how many of the first tokens of each distribution to list.
        num_changed: how many of the tokens that gain and lose most probability against the tuned model to list.
        special_tokens: as for `fused_step`; of the mixture.
        vocab_size: the columns that count; the narrowest model's width if not given.
        backend: "auto", "cpu", "cuda", "triton" or "reference".

    Returns:
        `Score`, whose tensors have the targets' shape first.

    Raises:
        ValueError, TypeError: an argument that does not fit; the message names it, the expected and the given value.
        RuntimeError: a backend that is not usable here; the message says what would enable it.
    """
    if scale is not None and beta is not None:
        raise ValueError("scale: expected none beside beta (they are two different forms), got both")
    if conservative_top_p is not None and beta is not None:
        raise ValueError("conservative_top_p: expected the form of scale, got beta (give scale instead)")
    logits, targets = check_positions(EFT_NAMES, (large, tuned, base), targets)
    if scale is None:
        scale = 1.0 if conservative_top_p is not None else None
    beta = 1.0 if beta is None else beta

    def build(part: Sequence[Tensor], rows: slice) -> MixParams:
        weights = beta_weights(
            option_rows("beta", beta, targets, rows), option_rows("scale", scale, targets, rows), part
        )
        nucleus = _nucleus(conservative_top_p, conservative_set, conservative_outside, targets, rows)
        return mix_params(EFT_NAMES, part, weights, vocab_size, nucleus, None, None, special_tokens)

    return dispatch_score(
        logits, targets, build, score_params(ignore_index, 1, num_top, num_changed, len(logits)), backend
    )


def fused_score_mix(
    logits: Sequence[Tensor],
    weights: Weights | Method,
    targets: Tensor,
    *,
    compared: int = 0,
    position: int | Tensor | None = None,
    conservative_top_p: float | Tensor | None = None,
    conservative_set: Literal["large", "tuned", "base"] = "tuned",
    conservative_outside: Literal["keep", "drop"] = "keep",
    ignore_index: int = -100,
    num_top: int = 0,
    num_changed: int = 0,
    special_tokens: SpecialTokens | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
) -> Score:
    """Teacher-forced statistics of 1 to 4 models and of their mixture z = sum_k weights_k * logits_k.

    Everything else, the results and the errors are those of `fused_score`.

    Args:
        logits: K tensors [B, V_k] or [B, T, V_k].
        weights: K numbers or tensors ([B] or as the targets), or one tensor [K]; or a method of `eft_ext.methods`.
        position: for a method whose parameters are functions of the step: the step of each target, as the targets; or
            of the first column's, an integer or [B].
        compared: index of the model that the mixture is compared with (`tv`, `kl`, `up_ids`, `down_ids`, ...).
        conservative_top_p, conservative_set, conservative_outside: as for `combine`: three models with the weights
            (scale, 1, -scale).
    """
    if isinstance(logits, Tensor) or not isinstance(logits, Sequence):
        came = f"one tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits: expected a sequence of 1 to 4 tensors, got {came}")
    logits, targets = check_positions(logits_names(logits), logits, targets)
    wanted = score_params(ignore_index, compared, num_top, num_changed, len(logits))
    if isinstance(weights, Method):
        if conservative_top_p is not None:
            raise ValueError(f"conservative_top_p: expected none beside {weights!r}; use eft_ext.methods.Conservative")
        check_count(weights, logits)
        special = special_of(weights, special_tokens)
        return _score_method(weights, logits, targets, position, wanted, vocab_size, special, backend)
    if conservative_top_p is not None and len(logits) != 3:
        raise ValueError(f"conservative_top_p: expected large, tuned and base, got {len(logits)} models")

    def build(part: Sequence[Tensor], rows: slice) -> MixParams:
        of_rows = weights
        if not isinstance(weights, Tensor) and isinstance(weights, Sequence):
            of_rows = [option_rows(f"weights[{k}]", w, targets, rows) for k, w in enumerate(weights)]
        elif isinstance(weights, Tensor) and weights.dim() != 1:
            raise ValueError(f"weights: expected shape [{len(logits)}], got {list(weights.shape)}")
        nucleus = _nucleus(conservative_top_p, conservative_set, conservative_outside, targets, rows)
        options = (vocab_size, nucleus, None, None, special_tokens)
        return mix_params(logits_names(part), part, given_weights(of_rows, part), *options)

    return dispatch_score(logits, targets, build, wanted, backend)


def _score_method(
    method: Method,
    logits: Sequence[Tensor],
    targets: Tensor,
    position: int | Tensor | None,
    wanted: ScoreParams,
    vocab_size: int | None,
    special: tuple[SpecialTokens | None, tuple[str, ...]],
    backend: str,
) -> Score:
    method = at_positions(method, targets.shape, position, logits[0].device)

    def of(rows: slice) -> Method:
        return method.mapped(lambda name, value: option_rows(name, value, targets, rows))

    left, excluding = _prepared(of, [x.detach() for x in logits], targets.shape, vocab_size)
    # A model that loses tokens is there a second time, whole and with weight 0: its figures are that one's.
    everything = [*left, *(logits[k] for k in excluding)]
    if len(everything) > MAX_MODELS:
        room = MAX_MODELS - len(excluding)
        raise ValueError(f"logits: expected at most {room} where {method!r} excludes tokens, got {len(logits)}")
    places = [*range(len(logits))]
    for extra, k in enumerate(excluding):
        places[k] = len(logits) + extra

    def build(part: Sequence[Tensor], rows: slice) -> MixParams:
        here = of(rows)
        weights = given_weights([*here.weights(), *[0.0] * len(excluding)], part)
        options = (vocab_size, here.conservative(), None, None, *special)
        return mix_params(logits_names(part), part, weights, *options)

    found = dispatch_score(everything, targets, build, wanted._replace(compared=places[wanted.compared]), backend)
    return pick_models(found, [*places, len(everything)]) if excluding else found


def score_whole_models(details: StepDetails, logits: Sequence[Tensor], mix: MixParams) -> None:
    """Corrects `model_logprobs` of a model that a method has cut tokens from: they are those of the whole model."""
    for k, (whole, cut) in enumerate(zip(logits, mix.logits, strict=True)):
        if whole is not cut:
            score = fused_score_mix([whole], [1.0], details.tokens, vocab_size=mix.vocab_size)
            details.model_logprobs[:, k] = score.logprobs[:, 0]


def _prepared(
    of: Callable[[slice], Method], logits: Sequence[Tensor], shape: torch.Size, vocab_size: int | None
) -> tuple[list[Tensor], list[int]]:
    """The logits that a method mixes, and which of them are not those given."""
    pieces = [(part, of(rows).prepare(part, vocab_size)) for rows, part in row_chunks(logits, copy=False)]
    first, cut = pieces[0]
    excluding = [k for k, (x, y) in enumerate(zip(first, cut, strict=True)) if x is not y]
    left = [*logits]
    for k in excluding:
        left[k] = torch.cat([cut[k] for _, cut in pieces]).unflatten(0, shape) if len(shape) == 2 else cut[k]
    return left, excluding


def _nucleus(
    top_p: float | Tensor | None, model: Any, outside: Any, targets: Tensor, rows: slice
) -> ConservativeParams | None:
    if top_p is None:
        return None
    return ConservativeParams(option_rows("conservative_top_p", top_p, targets, rows), model, outside)
