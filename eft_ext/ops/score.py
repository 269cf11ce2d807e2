"""Scoring: what K models and their mixture say of given tokens (SPEC §3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from eft_ext.ops.call import Mixture, Weights, beta_weights, given_weights, mixture, models
from eft_ext.ops.details import Conservative
from eft_ext.ops.positions import check_positions, option_rows
from eft_ext.ops.score_launch import launch, scoring
from eft_ext.ops.scores import Score

EFT_NAMES = ("large", "tuned", "base")


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
    vocab_size: int | None = None,
    backend: str = "auto",
) -> Score:
    """Teacher-forced statistics of three models and of the mixture that emulates fine-tuning (arXiv 2310.12962).

    For every target token and for each of large, tuned, base and the mixture: log-probability, entropy, rank, argmax
    and more (`Score`), and how far the mixture is from the tuned model. The logits are read once, twice where they
    are in cache; no tensor of the vocabulary's size is made. Nothing here is differentiable: results carry no
    gradient, whatever the logits require.

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
        vocab_size: the columns that count; the narrowest model's width if not given.
        backend: "auto", "cpu", "cuda" or "reference".

    Returns:
        `Score`, whose tensors have the targets' shape first.

    Raises:
        ValueError, TypeError: an argument that does not fit; the message names it, what was expected, what came.
        RuntimeError: a backend that is not usable here, and what would enable it.
    """
    if scale is not None and beta is not None:
        raise ValueError("scale: expected none beside beta (they are two different forms), got both")
    if conservative_top_p is not None and beta is not None:
        raise ValueError("conservative_top_p: expected the form of scale, got beta (give scale instead)")
    logits = (large, tuned, base)
    check_positions(EFT_NAMES, logits, targets)
    if scale is None:
        scale = 1.0 if conservative_top_p is not None else None
    beta = 1.0 if beta is None else beta

    def build(part: Sequence[Tensor], rows: slice) -> Mixture:
        conservative = None
        if conservative_top_p is not None:
            nucleus = option_rows("conservative_top_p", conservative_top_p, targets, rows)
            conservative = Conservative(nucleus, conservative_set, conservative_outside)
        weights = beta_weights(
            option_rows("beta", beta, targets, rows), option_rows("scale", scale, targets, rows), part
        )
        return mixture(EFT_NAMES, part, weights, vocab_size, conservative, None, None)

    return launch(logits, targets, build, scoring(ignore_index, 1, num_top, num_changed, len(logits)), backend)


def fused_score_mix(
    logits: Sequence[Tensor],
    weights: Weights,
    targets: Tensor,
    *,
    compared: int = 0,
    ignore_index: int = -100,
    num_top: int = 0,
    num_changed: int = 0,
    vocab_size: int | None = None,
    backend: str = "auto",
) -> Score:
    """`fused_score` for z = sum_k weights_k * logits_k, 1 to 4 models.

    Args:
        logits: K tensors [B, V_k] or [B, T, V_k].
        weights: K numbers or tensors ([B] or as the targets), or one tensor [K].
        compared: the model that the mixture is compared with (`tv`, `kl`, `up`, `down`).
        Everything else, what is returned and raised: as for `fused_score`.
    """
    if isinstance(logits, Tensor) or not isinstance(logits, Sequence):
        came = f"one tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits: expected a sequence of 1 to 4 tensors, got {came}")
    check_positions(models(logits), logits, targets)

    def build(part: Sequence[Tensor], rows: slice) -> Mixture:
        of_rows = weights
        if not isinstance(weights, Tensor) and isinstance(weights, Sequence):
            of_rows = [option_rows(f"weights[{k}]", w, targets, rows) for k, w in enumerate(weights)]
        elif isinstance(weights, Tensor) and weights.dim() != 1:
            raise ValueError(f"weights: expected shape [{len(logits)}], got {list(weights.shape)}")
        return mixture(models(part), part, given_weights(of_rows, part), vocab_size, None, None, None)

    return launch(logits, targets, build, scoring(ignore_index, compared, num_top, num_changed, len(logits)), backend)
