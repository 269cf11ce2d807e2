"""The strength of one response's influence on another: the last layer in closed form, and ‖K‖ of the whole model."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import trange

from eft_ext.dynamics.context import check_texts
from eft_ext.dynamics.decompose import pushed
from eft_ext.dynamics.evaluation import device_of, evaluating
from eft_ext.dynamics.forward import predicting, response_logits, trainable, vjp
from eft_ext.dynamics.losses import SFT, Loss, Update, UserLoss, check_loss, gradient, residuals
from eft_ext.dynamics.responses import Responses

_SFT = SFT()


@torch.no_grad()
def last_layer(
    model: Any, observed: Responses, update: Update, loss: Loss | UserLoss = _SFT, lr: float = 1e-4
) -> Tensor:
    """Predicts Δ log π of every observed token, [tokens], if the step changes the unembedding matrix alone.

    With logits z = W h and r = π − e_y, exactly to first order (for SFT, G_l = r_l):

        Δ log π(y at m) = lr · Σ_l ⟨h_m, h_l⟩ ⟨r_m, G_l⟩

    summed over the update's tokens. A token moves most if contexts are similar (h) and predictions overlap (r). This
    takes two forward passes and no backward one.

    Args:
        model: a transformers model whose logits come straight from the layer that `get_output_embeddings` returns.
        observed, update, loss, lr: as in `decompose`.

    Raises:
        ValueError: the model has no such layer, or changes the logits after it; a row as in `decompose`.
        TypeError: a loss as in `decompose`.
    """
    check_loss(loss)
    check_texts({"model": model}, {"observed": observed, "update": update.responses})
    update = update.to(device_of(model))
    trained = update.responses
    observed = observed.to(device_of(model))
    with evaluating(model) as inner:
        h_m, z_m = _hidden(inner, observed)
        h_l, z_l = _hidden(inner, trained)
    g = gradient(loss, z_l, update)
    return lr * ((h_m @ h_l.T) * (residuals(z_m, observed.targets) @ g.T)).sum(-1)


def _hidden(model: Any, responses: Responses) -> tuple[Tensor, Tensor]:
    """Inputs of the unembedding [tokens, width] and its outputs [tokens, vocab]."""
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if layer is None:
        raise ValueError("model: expected one with get_output_embeddings(), got one without")
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    try:
        logits = response_logits(model, responses)
    finally:
        hook.remove()
    hidden = seen[0]
    alone = hidden.shape[:2] == (1, len(logits))  # see `token_logits`
    picked = (hidden[0] if alone else predicting(hidden, responses)).to(logits.dtype)
    bias = getattr(layer, "bias", None)
    plain = nn.functional.linear(picked, layer.weight.to(picked), None if bias is None else bias.to(picked))
    if not torch.allclose(plain, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
        raise ValueError("model: expected logits straight from the unembedding, got ones that are changed after it")
    return picked, logits


class KernelNorms(NamedTuple):
    """Estimates of ‖K‖_F.

    Attributes:
        norm: [observed rows, update rows], the estimates.
        error: [observed rows, update rows], their standard errors.
    """

    norm: Tensor
    error: Tensor


def kernel_norms(
    model: nn.Module,
    observed: Responses,
    update: Responses,
    *,
    samples: int = 8,
    batch_size: int = 16,
    generator: torch.Generator | None = None,
) -> KernelNorms:
    """Estimates ‖K(x_o, x_u)‖_F of every pair of responses, all their tokens together, without forming K.

    ‖K‖²_F = E ‖K v‖² over v of independent signs on the update's logits (Hutchinson): each sample of each update row
    is one backward pass and one Jacobian-vector product over the observed responses.

    Args:
        samples: vectors of signs drawn per update row, at least 2. The relative error falls with its root.
        generator: of the signs, on the CPU.
        model, observed, batch_size: as in `decompose`.

    Raises:
        ValueError: fewer than two samples; a row as in `decompose`.
    """
    if samples < 2:
        raise ValueError(f"samples: expected at least 2, for a standard error, got {samples}")
    check_texts({"model": model}, {"observed": observed, "update": update})
    squares = torch.empty(samples, len(observed), len(update), dtype=torch.float64)
    with evaluating(model) as inner:
        parameters = trainable(inner)
        for u in trange(len(update), desc="kernel", leave=False, disable=None):
            part = update.take(slice(u, u + 1)).to(device_of(model))
            for s in range(samples):

                def signs(logits: Tensor) -> Tensor:
                    drawn = torch.randint(2, logits.shape, generator=generator)
                    return (2 * drawn - 1).to(logits)

                _, along = vjp(partial(response_logits, inner, part), parameters, signs)
                rows = [
                    batch.sums(kg.double().square().sum(-1))
                    for batch, _, kg in pushed(inner, observed, parameters, along, batch_size)
                ]
                squares[s, :, u] = torch.cat(rows).cpu()
    mean = squares.mean(0)
    norm = mean.sqrt()
    return KernelNorms(norm, squares.std(0) / samples**0.5 / (2 * norm).clamp_min(1e-300))
