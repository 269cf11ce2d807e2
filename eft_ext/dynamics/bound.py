"""‖G‖ of a loss from what a recording holds, for the lower bound of ‖K‖."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from eft_ext.dynamics.losses import SFT, Loss, PreferenceLoss, UserLoss

Array = np.ndarray


class Trained(NamedTuple):
    """A response that is trained on, at every record: log π in nats, ‖π − e_y‖ and tokens, each [records, probes]."""

    log_prob: Array
    residual: Array
    tokens: Array


def g_norm(loss: Loss | UserLoss, chosen: Trained, rejected: Trained | None) -> Array:
    """‖G‖ of the loss on one example alone, [records, probes].

    SFT's G is the stacked π − e_y. A preference loss weighs each half of it with its slope, ∂L/∂s⁺ or ∂L/∂s⁻.

    Args:
        loss: SFT, or a preference loss, whose reference is the model of the first record.
        rejected: where the loss is one of preferences.
    """
    if isinstance(loss, SFT):
        return chosen.residual / (chosen.tokens if loss.reduction == "mean" else 1.0)
    if not isinstance(loss, PreferenceLoss) or rejected is None:
        raise ValueError(f"loss: expected SFT, DPO, IPO, SLiC or SPPO, got {loss!r}")
    both = (half.log_prob for half in (chosen, rejected))
    margins = (torch.from_numpy(x - x[:1] if loss.needs_reference else x) for x in both)
    up, down = (slope.numpy() for slope in loss.slopes(*margins))
    return np.hypot(up * chosen.residual, down * rejected.residual)


def quotient(moved: Array, lr: Array, push: Array) -> Array:
    """moved / (lr·push), NaN where nothing pushed, lr is not known or log π is infinite."""
    step = lr * push
    known = np.isfinite(step) & (step > 0) & np.isfinite(moved)
    return np.where(known, moved, np.nan) / np.where(known, step, 1.0)
