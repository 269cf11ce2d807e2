"""The effect of one training step on some responses upon others, to first order.

Ren & Sutherland, "Learning Dynamics of LLM Finetuning" (ICLR 2025), eq. 5 and its form for sequences:

    Δ log π(· | x_o) = −lr · A(x_o) · K(x_o, x_u) · G(x_u, y_u) + O(lr²)

A = I − 1πᵀ turns a change of logits into one of log-probabilities, K = J_o J_uᵀ with J = ∂z/∂θ, G = ∂L/∂z. Neither K
nor a Jacobian is formed: J_uᵀG is one backward pass, the gradient; and J_o times that is one Jacobian-vector product
for each batch of observed responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from eft_ext.dynamics.context import check_texts
from eft_ext.dynamics.evaluation import device_of, evaluating
from eft_ext.dynamics.forward import Parameters, jvp, response_logits, token_log_probs, trainable, vjp
from eft_ext.dynamics.losses import SFT, Loss, Update, UserLoss, check_loss, gradient
from eft_ext.dynamics.responses import Responses

_SFT = SFT()


class Vectors(NamedTuple):
    """Vocabulary-sized parts of a decomposition.

    Attributes:
        pi: [observed tokens, vocab], π.
        kg: [observed tokens, vocab], K·G summed over the update.
    """

    pi: Tensor
    kg: Tensor


@dataclass(frozen=True)
class Decomposition:
    """The prediction for one SGD step. Flat over the tokens of `observed`; see `Responses`.

    Attributes:
        observed: the responses.
        lr: the learning rate.
        log_probs: [tokens], log π(y) of each observed token before the step, in nats.
        change: [tokens], the predicted Δ log π(y) of each observed token, in nats.
        a_norm: [tokens], ‖A‖_F at each observed token.
        kg_norm: [tokens], ‖K·G‖₂ at each observed token.
        g_norm: ‖G‖₂ at each token of the update's responses.
        vectors: π and K·G, if made with `vectors=True`.
    """

    observed: Responses
    lr: float
    log_probs: Tensor
    change: Tensor
    a_norm: Tensor
    kg_norm: Tensor
    g_norm: Tensor
    vectors: Vectors | None

    @property
    def per_response(self) -> Tensor:
        """The predicted Δ log π of each whole response, [rows]."""
        return self.observed.sums(self.change)

    def full_change(self) -> Tensor:
        """The predicted Δ log π of the whole vocabulary at every position: −lr·A·K·G, [tokens, vocab].

        Raises:
            ValueError: the decomposition was made without `vectors=True`.
        """
        if self.vectors is None:
            raise ValueError("full_change: expected a decomposition made with vectors=True")
        return -self.lr * apply_a(self.vectors.pi, self.vectors.kg)


def apply_a(pi: Tensor, v: Tensor) -> Tensor:
    """A·v = v − (π·v)1, for π and v [..., vocab]."""
    return v - (pi * v).sum(-1, keepdim=True)


def update_gradient(
    model: nn.Module, update: Update, loss: Loss | UserLoss, parameters: Parameters
) -> tuple[Tensor, Parameters]:
    """G [tokens, vocab] of the update's responses, and J_uᵀG, the gradient on the parameters: one backward pass."""
    update = update.to(device_of(model))
    responses = update.responses
    return vjp(partial(response_logits, model, responses), parameters, lambda logits: gradient(loss, logits, update))


def decompose(
    model: nn.Module,
    observed: Responses,
    update: Update,
    loss: Loss | UserLoss = _SFT,
    lr: float = 1e-4,
    *,
    batch_size: int = 16,
    vectors: bool = False,
) -> Decomposition:
    """Predicts the change of every observed token for one step θ ← θ − lr·∂L/∂θ, with ‖A‖, ‖K·G‖ and ‖G‖.

    To first order Δ log π = −lr·A·K·G (Ren & Sutherland, ICLR 2025, eq. 5). G is the loss's gradient on the logits, K
    the empirical neural tangent kernel between observed and updated responses, and A = I − 1πᵀ.

    Args:
        model: a causal language model of transformers (any attention but flash-attention's own package), or any
            module that takes ids and an attention mask and returns logits. The step is on its trainable parameters;
            the model itself does not change. Dropout is off. Use fp32 or fp64: at bf16 the rounding is larger than the
            effect. In a mixture of experts, tokens keep the experts that they have before the step.
        observed: the responses whose probabilities are watched.
        update: the data of the step: `Responses` for SFT, `Pairs` for preference losses, or an object with
            `.responses` and `.to(device)` that your own loss takes.
        loss: one of `eft_ext.dynamics`, or a function (logits [tokens, vocab], update) -> scalar.
        lr: learning rate of plain SGD.
        batch_size: observed rows per Jacobian-vector product.
        vectors: keep π and K·G themselves, two tensors [observed tokens, vocab].

    Raises:
        ValueError: no trainable parameter; pairs without the reference that the loss needs; a row beyond the model's
            table of positions.
        TypeError: not a loss, such as a name of TRL's; a loss given the wrong kind of update.

    Warns:
        ContextWarning: a row is longer than the model was made for.
    """
    check_loss(loss)
    check_texts({"model": model}, {"observed": observed, "update": update.responses})
    columns: dict[str, list[Tensor]] = {name: [] for name in ("log_probs", "slope", "a_norm", "kg_norm", "pi", "kg")}
    with evaluating(model) as inner:
        parameters = trainable(inner)
        g, along = update_gradient(inner, update, loss, parameters)
        for batch, logits, kg in pushed(inner, observed, parameters, along, batch_size):
            pi = logits.softmax(-1)
            row: dict[str, Tensor] = {
                "log_probs": token_log_probs(logits, batch.targets),
                "slope": kg.gather(-1, batch.targets[:, None]).squeeze(-1) - (pi * kg).sum(-1),
                "a_norm": (pi.shape[1] - 2 + pi.shape[1] * pi.square().sum(-1)).sqrt(),
                "kg_norm": kg.norm(dim=-1),
            }
            for name, value in (row | {"pi": pi, "kg": kg} if vectors else row).items():
                columns[name].append(value)
    whole = {name: torch.cat(parts) for name, parts in columns.items() if parts}
    return Decomposition(
        observed=observed.to(device_of(model)),
        lr=lr,
        log_probs=whole["log_probs"],
        change=-lr * whole["slope"],
        a_norm=whole["a_norm"],
        kg_norm=whole["kg_norm"],
        g_norm=g.norm(dim=-1),
        vectors=Vectors(whole["pi"], whole["kg"]) if vectors else None,
    )


def pushed(
    model: nn.Module, observed: Responses, parameters: Parameters, direction: Parameters, batch_size: int
) -> Iterator[tuple[Responses, Tensor, Tensor]]:
    """Batches of the observed responses, their logits, and J_o·direction, both [tokens, vocab]."""
    device = device_of(model)
    total = -(-len(observed) // batch_size)
    for batch in tqdm(
        observed.batches(batch_size), "observing", total, leave=False, disable=None if total > 1 else True
    ):
        part = batch.to(device)
        yield part, *jvp(partial(response_logits, model, part), parameters, direction)


@dataclass(frozen=True)
class Verification:
    """Predicted and actual Δ log π of every observed token, one row per learning rate.

    Attributes:
        observed: the responses.
        lrs: [n] float64, the learning rates.
        predicted: [n, tokens], in nats.
        actual: [n, tokens], in nats.
    """

    observed: Responses
    lrs: Tensor
    predicted: Tensor
    actual: Tensor

    @property
    def error(self) -> Tensor:
        """The largest |actual − predicted|, [n]. It falls a hundredfold when lr falls tenfold, if `order` is 2."""
        return (self.actual - self.predicted).abs().amax(-1)

    @property
    def order(self) -> float:
        """The slope of log error over log lr, from the smallest to the largest lr; 2 if exact to first order."""
        first, last = int(self.lrs.argmax()), int(self.lrs.argmin())
        return float((self.error[first] / self.error[last]).log() / (self.lrs[first] / self.lrs[last]).log())


def verify(
    model: nn.Module,
    observed: Responses,
    update: Update,
    loss: Loss | UserLoss = _SFT,
    lr: float | Sequence[float] = (1e-2, 1e-3, 1e-4),
    *,
    batch_size: int = 16,
) -> Verification:
    """Takes the step on a copy of the parameters and compares the actual change with the prediction of `decompose`.

    Arguments and errors are those of `decompose`; `lr` may be one learning rate or several. In fp32 the actual change
    is a small difference of rounded numbers: use a model in fp64 to see the error fall all the way.
    """
    lrs = [float(x) for x in (lr if isinstance(lr, Sequence) else [lr])]
    if not lrs or min(lrs) <= 0:
        raise ValueError(f"lr: expected positive learning rates, got {lr}")
    first = decompose(model, observed, update, loss, 1.0, batch_size=batch_size)
    actual = []
    with evaluating(model) as inner:
        parameters = trainable(inner)
        _, along = update_gradient(inner, update, loss, parameters)
        for rate in lrs:
            moved = {name: p - rate * along[name] for name, p in parameters.items()}
            actual.append(_log_probs(inner, observed, moved, batch_size) - first.log_probs)
    rates = torch.tensor(lrs, dtype=torch.float64)
    predicted = torch.stack([rate * first.change for rate in lrs])
    return Verification(first.observed, rates, predicted, torch.stack(actual))


@torch.no_grad()
def _log_probs(model: nn.Module, observed: Responses, parameters: Parameters, batch_size: int) -> Tensor:
    parts = []
    # With the attention of `decompose`, so that no kernel's rounding is taken for a change.
    with sdpa_kernel(SDPBackend.MATH):
        for batch in observed.batches(batch_size):
            part = batch.to(device_of(model))
            parts.append(token_log_probs(response_logits(model, part, parameters), part.targets))
    return torch.cat(parts)
