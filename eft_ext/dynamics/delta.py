"""The delta that emulated fine-tuning transplants, as accumulated learning dynamics.

δ = log π_tuned − log π_base is what EFT adds to a large model. A recording that begins at base and ends at tuned splits
it into the steps that made it: the changes between records sum to δ, token by token.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eft_ext.dynamics.context import check_texts
from eft_ext.dynamics.evaluation import device_of, evaluating
from eft_ext.dynamics.forward import response_logits, token_log_probs
from eft_ext.dynamics.recording import Recording
from eft_ext.dynamics.responses import Responses


class Delta(NamedTuple):
    """Figures of each response token, [tokens] on the CPU, in nats.

    Attributes:
        delta: log π_tuned − log π_base of the token, the implicit reward.
        kl_base: KL(base‖tuned) = −E_base[δ] of the whole distributions at its position.
        kl_tuned: KL(tuned‖base) = E_tuned[δ] of the same.
    """

    delta: Tensor
    kl_base: Tensor
    kl_tuned: Tensor


@torch.no_grad()
def delta(tuned: nn.Module, base: nn.Module, responses: Responses, batch_size: int = 16) -> Delta:
    """Computes δ = log π_tuned − log π_base and its two divergences along teacher-forced responses.

    Args:
        tuned, base: with one vocabulary; columns that only one of them has (padding) are left out.
        responses: the texts.
        batch_size: rows in one forward pass.

    Raises:
        ValueError: a row beyond a model's table of positions.

    Warns:
        ContextWarning: a row is longer than a model was made for.
    """
    check_texts({"tuned": tuned, "base": base}, {"responses": responses})
    parts: list[Delta] = []
    with evaluating(tuned) as plain_tuned, evaluating(base) as plain_base:
        for batch in responses.batches(batch_size):
            on = device_of(tuned)
            z_tuned = response_logits(plain_tuned, batch.to(on))
            z_base = response_logits(plain_base, batch.to(device_of(base))).to(on)
            width = min(z_tuned.shape[1], z_base.shape[1])
            log_tuned, log_base = (z[:, :width].log_softmax(-1) for z in (z_tuned, z_base))
            difference = log_tuned - log_base
            targets = batch.targets.to(on)
            found = (
                token_log_probs(log_tuned, targets) - token_log_probs(log_base, targets),
                -(log_base.exp() * difference).sum(-1),
                (log_tuned.exp() * difference).sum(-1),
            )
            parts.append(Delta(*(x.cpu() for x in found)))
    return Delta(*(torch.cat(column) for column in zip(*parts, strict=True)))


def steps_of_delta(recording: Recording, response: str) -> list[np.ndarray]:
    """Splits δ into the changes of log π between records: for each probe with this type, [records − 1, tokens].

    Their sum over the records is δ between the last recorded model and the first.

    Raises:
        ValueError: no such type, or a recording made with per_token=False.
    """
    return [np.diff(tokens, axis=0) for tokens in recording.tokens(response)]
