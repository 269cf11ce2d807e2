"""Losses of fine-tuning, with G = ∂L/∂z, the gradient on the logits, in closed form.

With r = π − e_y at every token, each of them is a weight per response times r: what differs between losses is only
how hard each response is pushed, and which way. The signs and factors are those of autograd, to which the tests hold
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from eft_ext.dynamics.forward import token_log_probs
from eft_ext.dynamics.pairs import Pairs
from eft_ext.dynamics.responses import Responses

Update = Responses | Pairs


class Loss(Protocol):
    """A loss with its gradient. `decompose` also takes plain functions (logits, update) -> scalar.

    `logits` are [tokens, vocab] for `update.responses`: see `Responses`.
    """

    def __call__(self, logits: Tensor, update: Any) -> Tensor:
        """Returns the loss, a scalar that autograd can differentiate."""

    def gradient(self, logits: Tensor, update: Any) -> Tensor:
        """Returns G = ∂L/∂logits, [tokens, vocab], in closed form."""


UserLoss = Callable[[Tensor, Any], Tensor]
# TRL 1.16's names for losses (`loss_type`), and what has their gradient here.
_TRL = {
    "nll": "TRL's 'nll' is SFT(), where completions alone are trained on",
    "sft": "TRL's 'sft' is SFT() on the chosen responses",
    "sigmoid": "TRL's 'sigmoid' is DPO(beta)",
    "ipo": "TRL's 'ipo' averages log-probs over each response's tokens, IPO sums them",
    "hinge": "TRL's 'hinge' is max(0, 1 − β(s⁺ − s⁻)) with a reference, SLiC has neither β nor reference",
    "sppo_hard": "TRL's 'sppo_hard' is SPPO(eta=1 / beta)",
}


def check_loss(loss: Any) -> None:
    """Raises TypeError for what no loss is: a name, a trainer's configuration, a class."""
    if callable(loss) and not isinstance(loss, type):
        return
    got = repr(loss) if isinstance(loss, str | type) else type(loss).__name__
    named = loss if isinstance(loss, str) else getattr(loss, "loss_type", [])
    hints = [_TRL[name] for name in ([named] if isinstance(named, str) else named or []) if name in _TRL]
    expected = "expected one of eft_ext.dynamics, such as DPO(0.1), or a function (logits, update) -> scalar"
    raise TypeError("; ".join([f"loss: {expected}, got {got}", *hints]))


def gradient(loss: Loss | UserLoss, logits: Tensor, update: Update) -> Tensor:
    """G [tokens, vocab]: the loss's closed form, or autograd's for a plain function.

    Raises:
        ValueError: the function's value is not a scalar, or does not depend on the logits.
    """
    if hasattr(loss, "gradient"):
        return loss.gradient(logits, update)
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        value = loss(leaf, update)
        if value.numel() != 1 or not value.requires_grad:
            raise ValueError(f"loss: expected a scalar that depends on the logits, got {value!r}")
        return torch.autograd.grad(value.sum(), leaf)[0]


def residuals(logits: Tensor, targets: Tensor) -> Tensor:
    """r = π − e_y, [tokens, vocab]."""
    r = logits.softmax(-1)
    r[torch.arange(len(targets), device=targets.device), targets] -= 1
    return r


@dataclass(frozen=True)
class SFT:
    """Cross-entropy of the responses. G = π − e_y, divided by the number of tokens for the mean.

    Args:
        reduction: "mean" over all response tokens of the batch, or "sum", as in the paper. The mean is the loss of
            TRL's SFTTrainer if it trains on completions alone and takes the batch as one.

    Raises:
        ValueError: another reduction.
    """

    reduction: str = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"reduction: expected 'mean' or 'sum', got {self.reduction!r}")

    def __call__(self, logits: Tensor, update: Responses) -> Tensor:
        return -token_log_probs(logits, _plain(update).targets).sum() * self._weight(update)

    def gradient(self, logits: Tensor, update: Responses) -> Tensor:
        return residuals(logits, _plain(update).targets) * self._weight(update)

    def _weight(self, update: Responses) -> float:
        return 1 / len(update.targets) if self.reduction == "mean" else 1.0


class PreferenceLoss:
    """A loss of s⁺ and s⁻, averaged over pairs.

    s⁺ and s⁻ are the sequence log-probs of the chosen and the rejected response, minus the reference's. r = π − e_y at
    every token of a sequence (r⁺ and r⁻). Since ∂s/∂z = −r, G = −(∂L/∂s)·r, divided by the number of pairs.
    """

    needs_reference = True

    def value(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """Returns the loss of each pair, [pairs]."""
        raise NotImplementedError

    def slopes(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
        """Returns ∂value/∂s⁺ and ∂value/∂s⁻, each [pairs]."""
        raise NotImplementedError

    def __call__(self, logits: Tensor, update: Pairs) -> Tensor:
        return self.value(*self._margins(logits, update)).mean()

    def gradient(self, logits: Tensor, update: Pairs) -> Tensor:
        slopes = torch.cat(self.slopes(*self._margins(logits, update)))  # [2 pairs]
        both = update.responses
        return residuals(logits, both.targets) * (-slopes / len(update))[both.row, None]

    def _margins(self, logits: Tensor, update: Pairs) -> tuple[Tensor, Tensor]:
        if not isinstance(update, Pairs):
            raise TypeError(f"update: expected Pairs for {type(self).__name__}, got {type(update).__name__}")
        both = update.responses
        chosen, rejected = both.sums(token_log_probs(logits, both.targets)).split(len(update))
        if not self.needs_reference:
            return chosen, rejected
        if update.reference is None:
            name = type(self).__name__
            raise ValueError(f"update: {name} expects the reference's log-probs; use pairs.with_reference(model)")
        return chosen - update.reference[0].to(chosen), rejected - update.reference[1].to(rejected)


@dataclass(frozen=True)
class DPO(PreferenceLoss):
    """−log σ(βh), h = s⁺ − s⁻ (Rafailov et al. 2023). TRL's "sigmoid", its default.

    With a = σ(βh): G = +β(1−a)r⁺ and −β(1−a)r⁻. s is the sequence log-prob of the chosen (⁺) or the rejected (⁻)
    response minus the reference's, r = π − e_y at each of its tokens.

    Args:
        beta: β.
    """

    beta: float = 0.1

    def value(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return -logsigmoid(self.beta * (chosen - rejected))

    def slopes(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
        slope = -self.beta * torch.sigmoid(-self.beta * (chosen - rejected))
        return slope, -slope


@dataclass(frozen=True)
class IPO(PreferenceLoss):
    """(h − 1/(2β))², h = s⁺ − s⁻ over whole sequences (Azar et al. 2023). Not TRL's "ipo".

    G = +2(1/(2β) − h)r⁺ and −2(1/(2β) − h)r⁻. s is the sequence log-prob of the chosen (⁺) or the rejected (⁻) response
    minus the reference's, r = π − e_y at each of its tokens. TRL divides s⁺ and s⁻ by the number of tokens.

    Args:
        beta: β.
    """

    beta: float = 0.1

    def value(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return (chosen - rejected - 1 / (2 * self.beta)).square()

    def slopes(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
        slope = 2 * (chosen - rejected - 1 / (2 * self.beta))
        return slope, -slope


@dataclass(frozen=True)
class SLiC(PreferenceLoss):
    """max(0, margin − log π⁺ + log π⁻), no reference (Zhao et al. 2023). Not TRL's "hinge".

    G = +r⁺ and −r⁻ inside the margin, else 0. log π is the sequence log-prob of the chosen (⁺) or the rejected (⁻)
    response, r = π − e_y at each of its tokens. TRL's is max(0, 1 − βh), relative to a reference.

    Args:
        margin: of the sequence log-probs, in nats.
    """

    margin: float = 1.0
    needs_reference = False

    def value(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return (self.margin - chosen + rejected).relu()

    def slopes(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
        slope = -(chosen - rejected < self.margin).to(chosen.dtype)
        return slope, -slope


@dataclass(frozen=True)
class SPPO(PreferenceLoss):
    """(s⁺ − η/2)² + (s⁻ + η/2)² (Wu et al. 2024). TRL's "sppo_hard" is `SPPO(eta=1 / beta)`.

    G = +2(η/2 − s⁺)r⁺ and −2(s⁻ + η/2)r⁻. s is the sequence log-prob of the chosen (⁺) or the rejected (⁻) response
    minus the reference's, r = π − e_y at each of its tokens.

    Args:
        eta: η.
    """

    eta: float = 1.0

    def value(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        return (chosen - self.eta / 2).square() + (rejected + self.eta / 2).square()

    def slopes(self, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * (chosen - self.eta / 2), 2 * (rejected + self.eta / 2)


LOSSES = {"sft": SFT, "dpo": DPO, "ipo": IPO, "slic": SLiC, "sppo": SPPO}
"""The losses by the names that `--method` of `eft dynamics` takes."""


def _plain(update: Update) -> Responses:
    if not isinstance(update, Responses):
        raise TypeError(f"update: expected Responses for SFT, got {type(update).__name__}")
    return update
